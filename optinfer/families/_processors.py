"""Which image processor of transformers a model was saved with, and what that one does where its file is silent.

The pipelines of that library read the same files, so what they apply is applied, and what they would ignore is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError
from optinfer.families._settings import read_json, refuse_unknown

_FILES = ("processor_config.json", "preprocessor_config.json")
_STEPS = ("do_resize", "size", "resample", "do_center_crop", "crop_size")
_VALUES = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "default_to_square")
# What names the processor, what speaks of label maps, and what any pipeline decides itself: images arrive as RGB.
_HARMLESS = (
    *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "transformers_version"),
    *("do_reduce_labels", "reduce_labels", "do_convert_rgb", "image_seq_length", "_valid_processor_keys", "use_fast"),
    *("input_data_format", "return_tensors", "device", "disable_grouping"),
)
_ONLY = {"data_format": ("channels_first",)}


@dataclass(frozen=True)
class Processor:
    """One kind of processor.

    Attributes:
        square: a bare number for a size is a square (True) or the shorter side (False); None where nobody says.
        defaults: what it does where its file is silent.
        own: settings that only this one has.
        ignores: settings that it does not look at.
    """

    square: bool | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    own: tuple[str, ...] = ("crop_pct", "rescale_offset", "include_top")
    ignores: tuple[str, ...] = ()


def _known(
    square: bool, resample: int, own: tuple[str, ...] = (), ignores: tuple[str, ...] = (), **more: Any
) -> Processor:
    return Processor(square, {"resample": resample, **more}, own, ignores)


# Class attributes in transformers 5.23, models/*/image_processing_pil_*.py; 2 is bilinear, 3 bicubic.
KNOWN = {
    "Beit": _known(True, 3),
    "Bit": _known(False, 3, do_center_crop=True),
    "CLIP": _known(False, 3, do_center_crop=True),
    "ConvNext": _known(False, 3, ("crop_pct",), ("do_center_crop",), crop_pct=224 / 256),
    "DeiT": _known(True, 3, do_center_crop=True),
    "EfficientNet": _known(True, 3, ("rescale_offset", "include_top"), include_top=True),
    "MobileNetV1": _known(False, 2, do_center_crop=True),
    "MobileNetV2": _known(False, 2, do_center_crop=True),
    "Pvt": _known(True, 3),
    "Segformer": _known(True, 2, (), ("do_center_crop",)),
    "Siglip": _known(False, 3),
    "ViT": _known(True, 2),
}


def settings_file(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the file that says how images are prepared, and what it says; of two the one that transformers reads."""
    for name in _FILES:
        config = read_json(folder / name)
        if name == "processor_config.json":
            config = config.get("image_processor") or {}
        if config:
            return folder / name, config
    return None


def processor_name(config: dict[str, Any]) -> str:
    """Return what the file calls its processor, without the words that all of them have; "" where it has no name."""
    name = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    for word in ("Pil", "Fast", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(word)
    return name


def refuse_unknown_settings(config: dict[str, Any], path: Path, kind: Processor) -> None:
    """Refuse a setting that would not be applied.

    Raises:
        ConfigError: there is one.
    """
    applied = [key for key in (*_STEPS, *_VALUES, *kind.own) if key not in kind.ignores]
    refuse_unknown(path, config, applied, _HARMLESS, _ONLY)


def load_processor(folder: Path, path: Path, config: dict[str, Any]) -> Any:
    """Return transformers' own image processor, of its Pillow kind; no code of the folder runs.

    Raises:
        ConfigError: it cannot be loaded, or its file has a setting that it does not know.
    """
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise ConfigError(
            f"{path} names an image processor that transformers cannot load here: {str(error).strip()[:300]}; use "
            "family: custom, whose class prepares the images itself"
        ) from error
    refuse_unknown(path, config, processor.valid_kwargs.__annotations__, _HARMLESS, _ONLY)
    return processor
