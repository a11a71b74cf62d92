"""An image file to the pixels a model wants, as its preprocessor_config.json says; Pillow decodes and resizes.

The same numbers as transformers' own image processors, for what most of them do: resize, crop the centre, scale,
normalize. A file that asks for more is refused: other pixels give other answers, and nobody would notice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optinfer.errors import ConfigError
from optinfer.families._text import read_json

_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
# Processors whose code resizes in a way that their file does not tell.
_OWN_WAY = ("Levit", "Perceiver", "PoolFormer", "Siglip2", "TextNet")
# From this size on, ConvNeXt's processor warps the whole image instead of cropping it.
_CONVNEXT_WARPS_FROM = 384


@dataclass(frozen=True)
class Preparation:
    """Decode, turn upright and to RGB, resize, crop the centre, scale, normalize; each as the file switches it on.

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
    def read(cls, path: Path) -> Preparation:
        """Read the file.

        Raises:
            ConfigError: it leaves something open, or asks for a step that is not known here.
        """
        config = {key: value for key, value in read_json(path).items() if value is not None}
        _refuse_other_steps(config, path)
        resize, size = _sizes(config, path)
        mean, std = np.zeros(3), np.ones(3)
        if config.get("do_normalize", True):
            mean, std = (np.broadcast_to(_given(config, key, path), 3) for key in ("image_mean", "image_std"))
        # EfficientNet's two peculiarities: shifted by one before, divided once more after.
        if config.get("rescale_offset"):
            mean = mean + 1.0
        if config.get("include_top"):
            std = std * std
        return cls(
            size=size,
            resize=resize,
            resample=int(_given(config, "resample", path)) if resize is not None else 0,
            scale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
            mean=tuple(map(float, mean)),
            std=tuple(map(float, std)),
        )

    def prepare(self, file: Any) -> np.ndarray[Any, Any]:
        """Return (height, width, 3) bytes; raises what Pillow raises for a file it cannot read."""
        from PIL import Image, ImageOps

        with Image.open(file) as image:
            # Neither step copies what is upright and RGB already, as most photos are: half a millisecond each.
            ImageOps.exif_transpose(image, in_place=True)
            rgb: Any = image if image.mode == "RGB" else image.convert("RGB")
            if self.resize is not None:
                rgb = rgb.resize(_target(rgb.size, self.resize), Image.Resampling(self.resample))
            return np.asarray(_center_crop(rgb, self.size), dtype=np.uint8)

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


def _refuse_other_steps(config: dict[str, Any], path: Path) -> None:
    others = [key for key, value in config.items() if key.startswith("do_") and value and key not in _STEPS]
    others += [key for key in ("size_divisor",) if config.get(key)]
    kind = str(config.get("image_processor_type", ""))
    others += [kind] if kind.startswith(_OWN_WAY) else []
    if others:
        raise ConfigError(
            f"{path} asks for {others[0]}, which optinfer does not do; use family: custom, whose class prepares the "
            "images itself"
        )


def _sizes(config: dict[str, Any], path: Path) -> tuple[tuple[int, int] | int | None, tuple[int, int]]:
    """Return what to resize to, and the size of the finished image."""
    cropped = bool(config.get("do_center_crop"))
    resize = _size(config, "size", path) if config.get("do_resize", True) else None
    crop = _size(config, "crop_size", path) if cropped else None
    if isinstance(crop, int):
        crop = (crop, crop)
    if isinstance(resize, int) and "crop_pct" in config and not cropped:
        if resize >= _CONVNEXT_WARPS_FROM:
            return (resize, resize), (resize, resize)
        return int(resize / config["crop_pct"]), (resize, resize)
    if isinstance(resize, int) and isinstance(config["size"], int):
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


def _size(config: dict[str, Any], key: str, path: Path) -> tuple[int, int] | int:
    """Read a size: a number, or height and width, or the shortest edge."""
    given = _given(config, key, path)
    if isinstance(given, int):
        return given
    if "height" in given and "width" in given:
        return int(given["height"]), int(given["width"])
    if "shortest_edge" in given and "longest_edge" not in given:
        return int(given["shortest_edge"])
    raise ConfigError(f"{path} has a {key} of {', '.join(given)}; known: height and width, or shortest_edge alone")


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


def _center_crop(image: Any, size: tuple[int, int]) -> Any:
    """Cut the middle out; what lies outside a smaller image is black, as in transformers."""
    height, width = size
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
