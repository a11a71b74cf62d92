"""Texts to vectors, as the model's own files say: transformer, then its pooling, then what follows it.

Pooling and normalization are part of the exported model, so every backend gives the finished vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.artifact import Artifact
from optinfer.families import Arrays, Columns, Family, Features
from optinfer.families._sentence import layers_of, load_sentence_module, pooling_of, width_of
from optinfer.families._text import DYNAMIC_AXES, INPUTS, TextTokenizer, require_folder, require_strings

SETTINGS = ("max_length",)
FRAGMENT_ROWS = 1024


def load(model: Artifact, settings: dict[str, Any]) -> Family:
    return TextEmbedding(require_folder(model), settings.get("max_length"))


class TextEmbedding(Family):
    """Columns gained: `embedding`, a fixed-size list of float32."""

    roles = ("text",)
    inputs = INPUTS
    outputs = ("sentence_embedding",)
    dynamic_axes = DYNAMIC_AXES
    metrics = ("cosine",)

    def __init__(self, folder: Path, max_length: int | None) -> None:
        self._folder = folder
        self._layers = layers_of(folder)
        for layer in self._layers:
            if layer.kind == "Pooling":
                pooling_of(layer)  # refuses a mode that is not known before anything is loaded
        self._tokenize = TextTokenizer(folder, max_length)
        self.schema = pa.schema([("embedding", pa.list_(pa.float32(), width_of(folder, self._layers)))])

    def check(self, schema: pa.Schema, columns: Columns) -> None:
        require_strings(schema, columns)

    def preprocess(self, table: pa.Table) -> Features:
        return self._tokenize(table.column("text"))

    def postprocess(self, outputs: Arrays) -> pa.Table:
        vectors = np.ascontiguousarray(outputs["sentence_embedding"], dtype=np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        return pa.Table.from_arrays([column], schema=self.schema)

    def load_module(self) -> Any:
        return load_sentence_module(self._folder, self._layers)
