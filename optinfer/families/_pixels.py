"""An image file to the pixels a model wants, as its preprocessor_config.json says; Pillow decodes and resizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optinfer.errors import ConfigError
from optinfer.families._text import read_json

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BILINEAR = 2  # Pillow's number, as the file has it


@dataclass(frozen=True)
class Preparation:
    """Decode, turn to RGB, resize, crop the centre, scale, normalize; each as the file switches it on.

    Attributes:
        size: (height, width) of the finished image.
        resize: (height, width) to resize to, or one number for the shorter side; None leaves the size.
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
        config = read_json(path)
        resize = _size(config.get("size"), path) if config.get("do_resize", True) else None
        crop = _size(config.get("crop_size"), path) if config.get("do_center_crop", False) else None
        if isinstance(resize, int) and config.get("crop_pct"):
            resize = int(resize / config["crop_pct"])  # how ConvNeXt's processor reads a shorter side
            crop = crop or _size(config.get("size"), path)
        final = _pair(crop if crop is not None else resize)
        if final is None:
            raise ConfigError(f"{path} gives no fixed size; add size: {{height: ..., width: ...}}")
        scaled, normalized = config.get("do_rescale", True), config.get("do_normalize", True)
        return cls(
            size=final,
            resize=resize,
            resample=int(config.get("resample", _BILINEAR)),
            scale=float(config.get("rescale_factor", 1 / 255)) if scaled else 1.0,
            mean=tuple(config.get("image_mean", _IMAGENET_MEAN)) if normalized else (0.0,) * 3,
            std=tuple(config.get("image_std", _IMAGENET_STD)) if normalized else (1.0,) * 3,
        )

    def prepare(self, file: Any) -> np.ndarray[Any, Any]:
        """Return (height, width, 3) bytes; raises what Pillow raises for a file it cannot read."""
        from PIL import Image

        with Image.open(file) as opened:
            image = opened.convert("RGB")
        if self.resize is not None:
            image = image.resize(_target(image.size, self.resize), Image.Resampling(self.resample))
        return np.asarray(_center_crop(image, self.size), dtype=np.uint8)

    def normalize(self, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return float32 values of (..., 3) bytes."""
        std = np.asarray(self.std, dtype=np.float32)
        return np.asarray(pixels * (np.float32(self.scale) / std) - np.asarray(self.mean, dtype=np.float32) / std)


def _size(given: Any, path: Path) -> tuple[int, int] | int | None:
    """Read a size: a number (the shorter side), or height and width, or the shortest edge by name."""
    if given is None or isinstance(given, int):
        return given
    if "height" in given and "width" in given:
        return int(given["height"]), int(given["width"])
    if "shortest_edge" in given:
        return int(given["shortest_edge"])
    raise ConfigError(f"{path} has a size of {sorted(given)}; known: height and width, or shortest_edge")


def _pair(size: tuple[int, int] | int | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


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
