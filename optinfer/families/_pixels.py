"""An image file to the pixels a model wants, as its preprocessor_config.json says; Pillow decodes and resizes.

What most of transformers' image processors do is done here, on bytes: resize, crop the centre, and, only when a
micro-batch is made of them, scale and normalize. The others resize, crop or turn channels in ways of their own: there
the library's own processor is asked, which costs some milliseconds an image and four times the memory. A setting that
neither would apply is refused: other pixels give other answers, and nobody would notice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optinfer.errors import ConfigError
from optinfer.families._processors import (
    KNOWN,
    Processor,
    load_processor,
    processor_name,
    refuse_unknown_settings,
    settings_file,
)

# From this size on, ConvNeXt's processor warps the whole image instead of cropping it.
_CONVNEXT_WARPS_FROM = 384
# Pillow opens no larger image; one that is resized to more, as a thin strip is, would take gigabytes.
_MOST_PIXELS = 2 * 89_478_485


@contextlib.contextmanager
def decoded(file: Any) -> Iterator[Any]:
    """Open an image as transformers' pipelines do (image_utils.load_image): upright, and RGB with any alpha dropped."""
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        # Neither step copies what is upright and RGB already, as most photos are: half a millisecond each.
        ImageOps.exif_transpose(image, in_place=True)
        yield image if image.mode == "RGB" else image.convert("RGB")


@dataclass(frozen=True)
class Preparation:
    """Resize, crop the centre, scale, normalize; each as the file switches it on.

    Attributes:
        size: (height, width) of the finished image.
        resize: (height, width) to resize to, or one number for the shorter side; None leaves the size.
        resample: Pillow's number of the filter.
        scale, mean, std: a finished pixel is (byte * scale - mean) / std.
    """

    size: tuple[int, int]
    resize: tuple[int, int] | int | None
    resample: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, config: dict[str, Any], path: Path, name: str = "") -> Preparation:
        """Read the settings of a file; a processor's `name` says what it does where the file is silent.

        Raises:
            ConfigError: it leaves something open, or asks for something that is not done here.
        """
        kind = KNOWN.get(name, Processor())
        refuse_unknown_settings(config, path, kind)
        given = kind.defaults | {key: value for key, value in config.items() if value is not None}
        resize, size = _sizes(given, path, kind)
        scaled, normalized = bool(given.get("do_rescale", True)), bool(given.get("do_normalize", True))
        mean, std = (np.zeros(3), np.ones(3)) if not normalized else _statistics(given, path)
        # EfficientNet's two peculiarities: shifted by one before, divided once more after.
        if given.get("rescale_offset") and scaled:
            mean = mean + 1.0
        if given.get("include_top"):
            std = std * _channels(_given(given, "image_std", path), "image_std", path)
        return cls(
            size=size,
            resize=resize,
            resample=_filter(_given(given, "resample", path), path) if resize is not None else 0,
            scale=float(given.get("rescale_factor", 1 / 255)) if scaled else 1.0,
            mean=tuple(map(float, mean)),
            std=tuple(map(float, std)),
        )

    def room(self, rows: int) -> np.ndarray[Any, Any]:
        """Return an array for the images of so many rows, as `prepare` makes them."""
        return np.zeros((rows, *self.size, 3), dtype=np.uint8)

    def prepare(self, file: Any) -> np.ndarray[Any, Any]:
        """Return (height, width, 3) bytes; raises what Pillow raises for a file it cannot read."""
        from PIL import Image

        with decoded(file) as image:
            if self.resize is not None:
                target = _target(image.size, self.resize)
                _refuse_strip(target)
                image = image.resize(target, Image.Resampling(self.resample))
            return np.asarray(_center_crop(image, self.size), dtype=np.uint8)

    def normalize(self, pixels: np.ndarray[Any, Any], channels_first: bool = False) -> np.ndarray[Any, Any]:
        """Return float32 values of (..., height, width, 3) bytes, or of those as (..., 3, height, width)."""
        std = np.asarray(self.std, dtype=np.float32)
        scale, shift = np.float32(self.scale) / std, np.asarray(self.mean, dtype=np.float32) / std
        if channels_first:
            # Bytes are reordered, not the floats made of them: a quarter of the memory to move.
            pixels = np.ascontiguousarray(np.moveaxis(pixels, -1, -3))
            scale, shift = scale[:, None, None], shift[:, None, None]
        values = np.multiply(pixels, scale, dtype=np.float32)
        values -= shift
        return values


class LibraryPreparation:
    """What transformers' own processor makes of an image, for those that do more than `Preparation`.

    Attributes:
        size: (height, width) of the finished image.
    """

    def __init__(self, processor: Any, path: Path) -> None:
        self._processor = processor
        self.size = self._size_of_all(path)

    def room(self, rows: int) -> np.ndarray[Any, Any]:
        return np.zeros((rows, 3, *self.size), dtype=np.float32)

    def prepare(self, file: Any) -> np.ndarray[Any, Any]:
        """Return (3, height, width) finished values."""
        with decoded(file) as image:
            # How far it resizes, only its code knows; none goes much beyond the finished size on the shorter side.
            long, short = max(image.size), min(image.size)
            _refuse_strip((2 * max(self.size), 2 * max(self.size) * long // short))
            return np.asarray(self._made(image)["pixel_values"][0], dtype=np.float32)

    def normalize(self, pixels: np.ndarray[Any, Any], channels_first: bool = False) -> np.ndarray[Any, Any]:
        return pixels if channels_first else np.ascontiguousarray(np.moveaxis(pixels, -3, -1))

    def _made(self, image: Any) -> Any:
        return self._processor(images=image, return_tensors="np")

    def _size_of_all(self, path: Path) -> tuple[int, int]:
        from PIL import Image

        name = type(self._processor).__name__
        made = [self._made(Image.new("RGB", size)) for size in ((61, 40), (40, 97))]
        if other := [key for key in made[0] if key != "pixel_values"]:
            raise ConfigError(f"{path}: {name} gives {', '.join(other)}, not pixels alone; {_CUSTOM}")
        shapes = {np.asarray(one["pixel_values"]).shape for one in made}
        if len(shapes) > 1 or len(next(iter(shapes))) != 4:
            raise ConfigError(f"{path}: {name} makes images of different sizes of different images; {_CUSTOM}")
        _, channels, height, width = shapes.pop()
        if channels != 3:
            raise ConfigError(f"{path}: {name} makes images of {channels} channels, not 3; {_CUSTOM}")
        return height, width


def preparation_of(folder: Path, model_type: str) -> Preparation | LibraryPreparation:
    """Return what prepares images for the model in a folder that holds a file of such settings.

    Raises:
        ConfigError: the file leaves something open, or asks for something that nobody here would do.
    """
    found = settings_file(folder)
    if found is None:
        raise ConfigError(f"{folder} has no settings of an image processor; put preprocessor_config.json there")
    path, config = found
    name = processor_name(config)
    # A file without a name means what its model's own processor does; without a model it can only mean what it says.
    if name in KNOWN or not (name or model_type):
        return Preparation.read(config, path, name)
    return LibraryPreparation(load_processor(folder, path, config), path)


_CUSTOM = "use family: custom, whose class prepares the images itself"


def _statistics(config: dict[str, Any], path: Path) -> tuple[Any, Any]:
    mean, std = (_channels(_given(config, key, path), key, path) for key in ("image_mean", "image_std"))
    return mean, std


def _channels(value: Any, key: str, path: Path) -> np.ndarray[Any, Any]:
    """Return a number for each of three channels."""
    numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if numbers.shape not in ((3,), (1,)) or (isinstance(value, list) and len(value) != 3):
        raise ConfigError(f"{path} has {key}: {value}; an RGB image needs one number, or three")
    return np.broadcast_to(numbers, 3)


def _filter(value: Any, path: Path) -> int:
    from PIL import Image

    if value not in list(Image.Resampling):
        raise ConfigError(
            f"{path} has resample: {value!r}; known are Pillow's {', '.join(map(str, map(int, Image.Resampling)))}"
        )
    return int(value)


def _sizes(config: dict[str, Any], path: Path, kind: Processor) -> tuple[tuple[int, int] | int | None, tuple[int, int]]:
    """Return what to resize to, and the size of the finished image."""
    cropped, square = bool(config.get("do_center_crop")), config.get("default_to_square", kind.square)
    resize = _size(config, "size", path, square) if config.get("do_resize", True) else None
    crop = _size(config, "crop_size", path, True) if cropped else None
    if "crop_pct" in config and not cropped and resize is not None:
        if not isinstance(resize, int):
            raise ConfigError(f"{path} has a crop_pct with size: {config['size']}; it takes {{shortest_edge: ...}}")
        if resize >= _CONVNEXT_WARPS_FROM:
            return (resize, resize), (resize, resize)
        return int(resize / config["crop_pct"]), (resize, resize)
    if isinstance(resize, int) and isinstance(config["size"], int) and square is None:
        # Processors disagree on whether a bare number means a square: without a crop, nothing else gives one size.
        if cropped:
            raise ConfigError(
                f"{path} has size: {resize}, which is no clear one; write {{shortest_edge: {resize}}}, or "
                f"{{height: {resize}, width: {resize}}}"
            )
        resize = (resize, resize)
    finished = crop or resize
    if not isinstance(finished, tuple):
        raise ConfigError(f"{path} gives no fixed size; add size: {{height: ..., width: ...}}, or crop_size")
    return resize, finished


def _size(config: dict[str, Any], key: str, path: Path, square: bool | None) -> tuple[int, int] | int:
    """Read a size: height and width, the shortest edge, or a bare number that is one of them."""
    given = _given(config, key, path)
    if isinstance(given, int):
        return (given, given) if square else given
    if isinstance(given, list) and len(given) == 2:
        return int(given[0]), int(given[1])
    if isinstance(given, dict) and given.keys() == {"height", "width"}:
        return int(given["height"]), int(given["width"])
    if isinstance(given, dict) and given.keys() == {"shortest_edge"}:
        return int(given["shortest_edge"])
    shown = ", ".join(given) if isinstance(given, dict) else given
    raise ConfigError(f"{path} has a {key} of {shown}; known: height and width, or shortest_edge alone")


def _given(config: dict[str, Any], key: str, path: Path) -> Any:
    if key not in config:
        raise ConfigError(f"{path} does not give {key}; add what the model was trained with")
    return config[key]


def _target(current: tuple[int, int], resize: tuple[int, int] | int) -> tuple[int, int]:
    """Return Pillow's (width, height) for a resize."""
    if not isinstance(resize, int):
        return resize[1], resize[0]
    width, height = current
    return (resize, int(resize * height / width)) if width <= height else (int(resize * width / height), resize)


def _refuse_strip(target: tuple[int, int]) -> None:
    if target[0] * target[1] > _MOST_PIXELS:
        raise ValueError(f"resized to {target[0]} x {target[1]} it would be larger than any image that is opened")


def _center_crop(image: Any, size: tuple[int, int]) -> Any:
    """Cut the middle out; what lies outside a smaller image is black, as in transformers."""
    height, width = size
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
