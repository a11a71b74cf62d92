"""Texts to classes: a transformers sequence classifier, or a sentence-transformers folder that ends in a Dense layer.

The head is part of the model, so a variant that is quantized or pruned is judged by the classes it gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.artifact import Artifact
from optinfer.errors import ConfigError
from optinfer.families import Arrays, Columns, Family, Features
from optinfer.families._classes import OUTPUT, Classes
from optinfer.families._sentence import layers_of, load_sentence_module, width_of
from optinfer.families._text import (
    DYNAMIC_AXES,
    INPUTS,
    TextTokenizer,
    load_encoder,
    read_json,
    require_folder,
    require_strings,
)

SETTINGS = ("max_length", "top_k")
FRAGMENT_ROWS = 1024


def load(model: Artifact, settings: dict[str, Any]) -> Family:
    return TextClassification(require_folder(model), settings.get("max_length"), settings.get("top_k"))


class TextClassification(Family):
    """Columns gained: `label` and `score`; with `top_k`, `labels` and `scores`."""

    roles = ("text",)
    inputs = INPUTS
    outputs = (OUTPUT,)
    dynamic_axes = DYNAMIC_AXES
    metrics = ("top1_agreement", "cosine")

    def __init__(self, folder: Path, max_length: int | None, top_k: int | None) -> None:
        self._folder = folder
        self._classes = Classes(folder, top_k)
        self._layers = layers_of(folder) if (folder / "modules.json").is_file() else None
        _check_head(folder, self._layers, len(self._classes.names))
        self._tokenize = TextTokenizer(folder, max_length)
        self.schema = self._classes.schema

    def check(self, schema: pa.Schema, columns: Columns) -> None:
        require_strings(schema, columns)

    def preprocess(self, table: pa.Table) -> Features:
        return self._tokenize(table.column("text"))

    def postprocess(self, outputs: Arrays) -> pa.Table:
        return self._classes.table(outputs)

    def answers(self, outputs: Arrays) -> np.ndarray[Any, Any]:
        return self._classes.answers(outputs)

    def load_module(self) -> Any:
        if self._layers is not None:
            return load_sentence_module(self._folder, self._layers)

        import torch

        class Classifier(torch.nn.Module):
            def __init__(self, model: torch.nn.Module) -> None:
                super().__init__()
                self.model = model

            def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
                return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

        return Classifier(load_encoder(self._folder, "AutoModelForSequenceClassification")).eval()


def _check_head(folder: Path, layers: Any, classes: int) -> None:
    """Refuse an encoder without a head: transformers would give it random weights and only warn."""
    if layers is None:
        architectures = read_json(folder / "config.json").get("architectures") or []
        if not any(name.endswith("ForSequenceClassification") for name in architectures):
            raise ConfigError(
                f"{folder} is {', '.join(architectures) or 'of no named architecture'}, not a sequence classifier; "
                "give a fine-tuned one, or a sentence-transformers folder that ends in a Dense layer"
            )
    elif not any(layer.kind == "Dense" for layer in layers) or width_of(folder, layers) != classes:
        raise ConfigError(
            f"{folder} gives {width_of(folder, layers)} numbers for the {classes} classes of its id2label; "
            "end it with a Dense layer of one output for each class"
        )
