"""Images: a row each, as the encoded bytes that the file holds, or as its path.

Every image is decoded once here: one that is cut short is named now, not after a night. Images of 16 bits or of floats
are refused unless the range that they use is said: a model takes bytes, and Pillow makes bytes of such values by
cutting them off at 255, which leaves a white picture. (Colours of 16 bits it scales itself.)
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.data.intake import Asked, File, Intake, Piece, Survey, Unreadable, content
from optinfer.errors import ConfigError

_AT_A_TIME = 4  # images that each thread has before it


def survey(files: Sequence[File], asked: Asked) -> Survey:
    if find_spec("PIL") is None:
        raise ConfigError("images need Pillow, which is not installed; fix: pip install 'optinfer[image]'")
    if asked.paths and asked.pixel_range:
        raise ConfigError("--paths leaves images as they are and --pixel-range writes others; keep one of the two")
    return Survey(schema=pa.schema([("image", pa.string() if asked.paths else pa.binary())]), rows=len(files))


def pieces(files: Sequence[File], survey: Survey, asked: Asked) -> Iterator[Piece]:
    threads = min(8, os.cpu_count() or 1)
    left = iter(files)
    with ThreadPoolExecutor(threads) as pool:
        while some := list(itertools.islice(left, threads * _AT_A_TIME)):
            yield from pool.map(partial(_piece, survey=survey, asked=asked), some)


def _piece(file: File, survey: Survey, asked: Asked) -> Piece:
    try:
        kept, several = _checked(content(file), asked.pixel_range)
    except Unreadable as error:
        return Piece(file, reason=str(error))
    said = f"{file.name} holds several images, of which a model sees the first" if several else ""
    return Piece(file, pa.record_batch([[file.url if asked.paths else kept]], schema=survey.schema), said=said)


def _checked(data: bytes, pixel_range: tuple[float, float] | None) -> tuple[bytes, bool]:
    """Return an image's bytes once it was decoded, and whether its file holds more images.

    Of one whose values are no bytes, they are those of a PNG that is scaled.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            several = bool(getattr(image, "is_animated", False))
            if image.mode == "F" or image.mode.startswith("I"):
                return _scaled(image, pixel_range), several
            image.draft("L", (1, 1))  # a JPEG is read to its end all the same, and decoded to less
            image.load()
            return data, several
    except UnidentifiedImageError:
        raise Unreadable("it is no image that Pillow knows, or it is empty") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unreadable(f"it cannot be decoded: {type(error).__name__}: {error}") from error


def _scaled(image: Any, pixel_range: tuple[float, float] | None) -> bytes:
    from PIL import Image, ImageOps

    ImageOps.exif_transpose(image, in_place=True)
    values = np.asarray(image, dtype=np.float64)
    least, most = float(values.min()), float(values.max())
    bits = "float" if image.mode == "F" else f"{16 if '16' in image.mode else 32}-bit"
    found = f"it has {bits} pixels from {least:g} to {most:g}"
    if pixel_range is None:
        raise Unreadable(
            f"{found}, and a model takes bytes; say which values are black and white: --pixel-range LOW HIGH"
        )
    low, high = pixel_range
    if not (low <= least and most <= high):  # also where one is not a number
        raise Unreadable(f"{found}, which is not within --pixel-range {low:g} {high:g}")
    grey = np.round((values - low) * (255 / (high - low))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    return file.getvalue()


intake = Intake(
    about="an image",
    suffixes=(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
    takes=frozenset({"paths", "pixel_range"}),
    row_a_file=True,
    group_rows=128,
    compression="none",  # their bytes are compressed already
    survey=survey,
    pieces=pieces,
)
