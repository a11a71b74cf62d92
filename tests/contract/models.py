"""A small model and some rows for each family, so that one suite can run over all of them."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.models.artifact import Artifact
from tests.conftest import located, write_shallow

TEXTS = ["a game", "", "a library for reading tables " * 5, "drivers", None]


@dataclass(frozen=True)
class Case:
    """A model of one family, a table with its roles whose last row cannot be scored, and a column of a wrong type.

    `backend` loads the model as it is, `exported` is the variant that makes ONNX of it.
    """

    family: str
    model: Artifact
    table: pa.Table
    wrong: pa.Array | None
    settings: dict[str, Any] = field(default_factory=dict)
    backend: str = "torch"
    exported: str = "onnx-fp32"


def text_embedding(folder: Path) -> Case:
    return Case("text-embedding", located(write_shallow(folder / "model")), pa.table({"text": TEXTS}), pa.array([1, 2]))


def text_classification(folder: Path) -> Case:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, id2label={0: "a", 1: "b"}
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    shutil.copy2(Path(located().path, "tokenizer.json"), folder)
    table = pa.table({"text": TEXTS})
    return Case("text-classification", located(folder, "text-classification"), table, pa.array([1.5]), {"top_k": 2})


def image_classification(folder: Path) -> Case:
    import torch
    from PIL import Image
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    size = 32
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=size,
        patch_size=8,
        id2label={0: "a", 1: "b", 2: "c"},
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
    images: list[bytes | None] = []
    for shade in (0, 80, 160):
        file = io.BytesIO()
        Image.fromarray(np.full((20, 30, 3), shade, dtype=np.uint8)).save(file, "PNG")
        images.append(file.getvalue())
    table = pa.table({"image": [*images, b"no image"]})
    return Case("image-classification", located(folder, "image-classification"), table, pa.array([1]))


def tensor(folder: Path) -> Case:
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    program = torch.export.export(module, (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("rows")},))
    torch.export.save(program, folder / "model.pt2")
    rows = np.random.default_rng(0).normal(size=(5, 4)).tolist()
    table = pa.table({"input": pa.array([*rows, None], pa.list_(pa.float32(), 4))})
    return Case("tensor", located(folder / "model.pt2", "tensor"), table, pa.array(["text"]))


def tabular(folder: Path) -> Case:
    import skops.io
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(0).normal(size=(40, 4))
    skops.io.dump(LogisticRegression().fit(rows, rows[:, 0] > 0), folder / "model.skops")
    table = pa.table({"features": pa.array([*rows[:5].tolist(), None], pa.list_(pa.float32(), 4))})
    model = located(folder / "model.skops", "tabular")
    return Case("tabular", model, table, pa.array(["text"]), backend="pyfunc", exported="onnx-tabular")


def custom(folder: Path) -> Case:
    settings = {"class": "optinfer_custom:Lengths"}
    return Case("custom", located(folder, "custom", **settings), pa.table({"text": TEXTS}), None, settings)


CASES: dict[str, Callable[[Path], Case]] = {
    f.__name__: f for f in (text_embedding, text_classification, image_classification, tensor, tabular, custom)
}
