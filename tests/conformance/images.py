"""Image classifiers of transformers' own configurations, tiny and random, each with the processor that goes with it.

And 64 images that differ in format, mode, orientation and shape more than any two of a data set do.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

SIDE = 32
_SQUARE = {"size": {"height": SIDE, "width": SIDE}}
_SHORTEST = {"size": {"shortest_edge": 36}, "crop_size": {"height": SIDE, "width": SIDE}}
_CROPPED = {"size": {"height": 37, "width": 41}, "crop_size": {"height": SIDE, "width": SIDE}}
_PATCHES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_STAGES = {"hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1]}


@dataclass(frozen=True)
class Architecture:
    """A model to build: its configuration, and the processor's settings; what they leave out is the library's own."""

    config: str
    settings: dict[str, Any]
    prepared: dict[str, Any]
    processor: str = ""
    classes: dict[str, Any] = field(default_factory=lambda: {"num_labels": 5})
    side: int = SIDE
    spread: bool = True

    def write(self, folder: Path) -> Path:
        """Save model and processor as their users do."""
        import torch
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, f"{self.config}Config")(**self.settings, **self.classes)
        model = getattr(transformers, f"{self.config}ForImageClassification")(config).eval()
        if self.spread:
            _spread(model, config.num_labels, self.side)
        model.save_pretrained(folder)
        processor = getattr(transformers, f"{self.processor or self.config}ImageProcessorPil")
        processor(**self.prepared).save_pretrained(folder)
        return folder


def _spread(model: Any, classes: int, side: int) -> None:
    """Scale the head so that images differ in their answers: random features are much alike, and hide wrong pixels."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():  # running statistics of an untrained net would let values grow without bound
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
                module.train()
                module.momentum = None
        pixels = torch.randn(16, 3, side, side, generator=generator) + torch.randn(16, 3, 1, 1, generator=generator)
        logits = model(pixels).logits
        model.eval()
        logits = model(pixels).logits
        heads = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == classes]
        for head in heads:
            head.weight.mul_(0.3 / float(logits.std(dim=0).max()))


def _vit(kind: str, **more: Any) -> dict[str, Any]:
    return {"image_size": SIDE, "patch_size": 8, **_PATCHES, **more}


ARCHITECTURES: dict[str, Architecture] = {
    "ViT": Architecture("ViT", _vit("ViT"), _SQUARE),
    "DeiT": Architecture("DeiT", _vit("DeiT"), _CROPPED),
    "BEiT": Architecture("Beit", _vit("Beit"), _CROPPED | {"do_center_crop": True}),
    "Data2VecVision": Architecture("Data2VecVision", _vit("Data2VecVision"), _SQUARE, "Beit"),
    "ViTMSN": Architecture("ViTMSN", _vit("ViTMSN"), _SQUARE | {"resample": 3}, "ViT"),
    "DINOv2": Architecture("Dinov2", _vit("Dinov2"), _SHORTEST, "Bit"),
    "DINOv2WithRegisters": Architecture("Dinov2WithRegisters", _vit("Dinov2WithRegisters"), _SHORTEST, "Bit"),
    "I-JEPA": Architecture("IJepa", _vit("IJepa"), _SQUARE, "ViT"),
    "CLIP": Architecture("CLIP", {"vision_config": _vit("CLIP"), "projection_dim": 16}, _SHORTEST),
    "SigLIP": Architecture("Siglip", {"vision_config": _vit("Siglip")}, _SQUARE),
    "Swin": Architecture(
        "Swin",
        {"image_size": SIDE, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        _SQUARE,
        "ViT",
    ),
    "Swinv2": Architecture(
        "Swinv2",
        {"image_size": SIDE, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        _SQUARE | {"resample": 3},
        "ViT",
    ),
    "ConvNeXt": Architecture("ConvNext", _STAGES, {"size": {"shortest_edge": SIDE}, "crop_pct": 0.8}),
    "ConvNeXtV2": Architecture(
        "ConvNextV2",
        {"hidden_sizes": [4, 4, 4, 4], "depths": [1, 1, 1, 1]},
        {"size": {"shortest_edge": 384}},
        "ConvNext",
    ),
    "ResNet": Architecture(
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        {"size": {"shortest_edge": SIDE + 1}},
        "ConvNext",
    ),
    "RegNet": Architecture(
        "RegNet",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4},
        {"size": {"shortest_edge": SIDE}},
        "ConvNext",
    ),
    "BiT": Architecture(
        "Bit", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_groups": 4}, _SHORTEST
    ),
    "CvT": Architecture(
        "Cvt",
        {"embed_dim": [8, 16, 16], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
        {"size": {"shortest_edge": SIDE}},
        "ConvNext",
    ),
    "MobileNetV1": Architecture("MobileNetV1", {"depth_multiplier": 0.25}, _SHORTEST),
    "MobileNetV2": Architecture("MobileNetV2", {"depth_multiplier": 0.25}, _SHORTEST),
    "EfficientNet": Architecture(
        "EfficientNet",
        {"width_coefficient": 0.25, "depth_coefficient": 0.2, "image_size": SIDE, "hidden_dim": 320},
        _CROPPED | {"do_center_crop": True, "rescale_offset": True},
    ),
    "MobileViT": Architecture(
        "MobileViT",
        {
            "image_size": SIDE,
            "hidden_sizes": [16, 16, 16],
            "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32],
            "num_attention_heads": 2,
        },
        {"size": {"shortest_edge": 36}, "crop_size": {"height": SIDE, "width": SIDE}},
    ),
    "MobileViTV2": Architecture(
        "MobileViTV2",
        {"image_size": 64, "width_multiplier": 0.25},
        {"size": {"shortest_edge": 70}, "crop_size": {"height": 64, "width": 64}, "do_flip_channel_order": False},
        "MobileViT",
        side=64,
    ),
    "PoolFormer": Architecture("PoolFormer", _STAGES, {**_SHORTEST, "crop_pct": 0.7}),
    "LeViT": Architecture(
        "Levit",
        {
            "image_size": SIDE,
            "hidden_sizes": [16, 16, 16],
            "num_attention_heads": [2, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        _SHORTEST,
    ),
    "SegFormer": Architecture(
        "Segformer",
        {
            "hidden_sizes": [8, 8, 16, 16],
            "num_attention_heads": [1, 1, 2, 2],
            "depths": [1, 1, 1, 1],
            "decoder_hidden_size": 16,
        },
        _SQUARE,
    ),
    "PVT": Architecture(
        "Pvt",
        {
            "image_size": SIDE,
            "hidden_sizes": [8, 8, 16, 16],
            "num_attention_heads": [1, 1, 2, 2],
            "depths": [1, 1, 1, 1],
        },
        _SQUARE,
        classes={"id2label": dict(enumerate("abcde")), "num_labels": 5},
    ),
    "PVTv2": Architecture(
        "PvtV2",
        {"hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]},
        _SQUARE,
        "Pvt",
    ),
    "FocalNet": Architecture(
        "FocalNet",
        {"image_size": SIDE, "embed_dim": 8, "depths": [1, 1], "focal_levels": [1, 1], "focal_windows": [3, 3]},
        _SHORTEST,
        "Bit",
    ),
    "SwiftFormer": Architecture(
        "SwiftFormer", {"image_size": SIDE, "embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}, _SQUARE, "ViT"
    ),
    "ViT, several labels a row": Architecture(
        "ViT", _vit("ViT"), _SQUARE, classes={"num_labels": 4, "problem_type": "multi_label_classification"}
    ),
    "ViT, one label": Architecture("ViT", _vit("ViT"), _SQUARE, classes={"num_labels": 1}),
    "ViT, regression": Architecture(
        "ViT", _vit("ViT"), _SQUARE, classes={"num_labels": 1, "problem_type": "regression"}
    ),
}

# What makes something else than images of one size, with what the refusal says.
REFUSED: dict[str, tuple[Architecture, str]] = {
    "TextNet": (
        Architecture("TextNet", {}, {"size": {"shortest_edge": 64}}, spread=False),
        "makes images of different sizes of different images",
    ),
    "ImageGPT": (
        Architecture(
            "ImageGPT",
            {"n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 9},
            {"size": {"height": 8, "width": 8}, "clusters": [[i / 8 - 0.5] * 3 for i in range(8)]},
            spread=False,
        ),
        "gives input_ids, not pixels alone",
    ),
    "SigLIP 2": (
        Architecture(
            "Siglip2", {"vision_config": _PATCHES | {"num_patches": 16}}, {"max_num_patches": 16}, spread=False
        ),
        "gives pixel_attention_mask, spatial_shapes, not pixels alone",
    ),
    "ViT of one channel": (
        Architecture("ViT", _vit("ViT") | {"num_channels": 1}, _SQUARE, spread=False),
        "takes images of 1 channels",
    ),
}


@cache
def images() -> tuple[tuple[str, bytes], ...]:
    """Return 64 images with what they are."""
    made = [*_modes(), *_oriented(), *_odd_shapes(), *_animated()]
    shapes = iter(range(1000))
    while len(made) < 64:
        i = next(shapes)
        height, width = 20 + 37 * i % 90, 17 + 53 * i % 110
        made.append((f"RGB {width} x {height}", _saved(_picture(height, width, i), "JPEG" if i % 2 else "PNG")))
    return tuple(made[:64])


def _picture(height: int, width: int, seed: int) -> Any:
    """Return a gradient with blobs and noise: every pixel counts, and no two pictures are alike."""
    from PIL import Image

    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + 9 * random.random()) + y / (4 + 7 * random.random()) + 6 * random.random()) for _ in "rgb"]
    noise = random.normal(scale=25, size=(height, width, 3))
    return Image.fromarray((128 + 90 * np.stack(waves, axis=-1) + noise).clip(0, 255).astype(np.uint8))


def _saved(image: Any, kind: str, **options: Any) -> bytes:
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def _modes() -> list[tuple[str, bytes]]:
    from PIL import Image

    made = []
    for seed, (mode, kinds) in enumerate(
        {
            "1": ("PNG", "TIFF"),
            "L": ("PNG", "JPEG", "WEBP"),
            "LA": ("PNG",),
            "P": ("PNG", "GIF"),
            "RGB": ("PNG", "JPEG", "WEBP", "BMP", "TIFF"),
            "RGBA": ("PNG", "WEBP", "TIFF"),
            "CMYK": ("JPEG", "TIFF"),
            "YCbCr": ("JPEG",),
        }.items()
    ):
        for kind in kinds:
            picture = _picture(45 + seed, 61, seed)
            if "A" in mode:
                alpha = Image.fromarray(np.linspace(0, 255, 61 * (45 + seed)).reshape(45 + seed, 61).astype(np.uint8))
                picture = picture.convert(mode)
                picture.putalpha(alpha)
            made.append((f"{mode} in {kind}", _saved(picture.convert(mode), kind)))
    palette = _picture(40, 50, 90).convert("P")
    made.append(("P with a transparent color", _saved(palette, "PNG", transparency=3)))
    made.append(("P with an alpha for each color", _saved(palette, "PNG", transparency=bytes(range(256)))))
    made.append(("RGB with a transparent color", _saved(_picture(40, 50, 91), "PNG", transparency=(10, 20, 30))))
    deep = Image.fromarray((np.arange(40 * 50).reshape(40, 50) * 32).astype(np.uint16))
    made.append(("I;16 in PNG", _saved(deep, "PNG")))
    made.append(("I;16 in TIFF", _saved(deep, "TIFF")))
    return made


def _oriented() -> list[tuple[str, bytes]]:
    from PIL import Image

    made = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = _picture(44, 70, 200 + orientation)
        kind = "JPEG" if orientation % 2 else "PNG"
        made.append((f"orientation {orientation} in {kind}", _saved(picture, kind, exif=exif)))
    return made


def _odd_shapes() -> list[tuple[str, bytes]]:
    shapes = [(1, 1), (1, 300), (300, 1), (2, 37), (37, 2), (3, 3), (500, 7), (33, 33), (31, 32), (32, 31), (64, 64)]
    return [
        (f"{width} x {height}", _saved(_picture(height, width, 300 + i), "PNG"))
        for i, (height, width) in enumerate(shapes)
    ]


def _animated() -> list[tuple[str, bytes]]:
    frames = [_picture(30, 40, 400 + i) for i in range(3)]
    return [
        (f"three frames in {kind}", _saved(frames[0], kind, save_all=True, append_images=frames[1:]))
        for kind in ("GIF", "WEBP")
    ]


def rows() -> list[dict[str, Any]]:
    """Return what the table of the documentation lists: family, name, and what writes a model and its rows."""
    return [
        {
            "family": "image-classification",
            "name": name,
            "write": partial(_written, architecture),
            # What follows a comma is another head of an architecture that is in the list already.
            "variants": "," not in name,
        }
        for name, architecture in ARCHITECTURES.items()
    ]


def _written(architecture: Architecture, folder: Path) -> tuple[Path, pa.Table, dict[str, Any]]:
    table = pa.table({"image": [data for _, data in images()]})
    return architecture.write(folder / "model"), table, {"image": "image"}
