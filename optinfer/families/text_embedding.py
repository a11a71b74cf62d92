"""Texts to vectors, as the model's own files say: prompt, transformer, then its pooling, then what follows it.

Pooling and normalization are part of the exported model, so every backend gives the finished vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from optinfer.errors import ConfigError
from optinfer.families import Arrays, Columns, Family, FamilyKind, Features, Reference
from optinfer.families._job_settings import PositiveInt, TextSettings
from optinfer.families._reference import against_sentence_transformers
from optinfer.families._sentence import excludes_prompt, read_sentence, width_of
from optinfer.families._sentence_module import load_sentence_module
from optinfer.families._text import DYNAMIC_AXES, INPUTS, require_folder, require_strings
from optinfer.families._tokens import Reading, TextTokenizer
from optinfer.models.artifact import Artifact


class Settings(TextSettings):
    """What a job may say of an encoder."""

    truncate_dim: PositiveInt | None = Field(
        None,
        description="numbers kept of each vector",
    )


def make(model: Artifact, settings: Settings) -> Family:
    return TextEmbedding(require_folder(model), model.key, settings)


class TextEmbedding(Family):
    """Columns gained: `embedding`, a fixed-size list of float32."""

    roles = ("text",)
    inputs = INPUTS
    outputs = ("sentence_embedding",)
    dynamic_axes = DYNAMIC_AXES
    metrics = ("cosine",)
    libraries = ("sentence-transformers",)

    def __init__(self, folder: Path, key: str, settings: Settings) -> None:
        self._folder = folder
        self._sentence = read_sentence(folder)
        self._prompt = self._sentence.prompt(folder, settings.prompt, settings.prompt_name)
        width = width_of(folder, self._sentence.layers)
        self._truncate = settings.truncate_dim or self._sentence.truncate
        if self._truncate and self._truncate > width:
            raise ConfigError(f"model.truncate_dim {self._truncate} is more than the model's {width} numbers; lower it")
        self._tokenize = TextTokenizer(
            Reading(
                folder=folder,
                key=key,
                max_length=settings.max_length,
                meant=self._sentence.max_length,
                lower=self._sentence.lower,
                capped=True,
                prompt=self._prompt,
            )
        )
        self.schema = pa.schema([("embedding", pa.list_(pa.float32(), self._truncate or width))])

    def check(self, schema: pa.Schema, columns: Columns) -> None:
        require_strings(schema, columns)

    def preprocess(self, table: pa.Table) -> Features:
        return self._tokenize(table.column("text"))

    def postprocess(self, outputs: Arrays) -> pa.Table:
        vectors = np.ascontiguousarray(outputs["sentence_embedding"], dtype=np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        return pa.Table.from_arrays([column], schema=self.schema)

    def load_module(self) -> Any:
        return load_sentence_module(
            self._folder,
            self._sentence.layers,
            self._tokenize,
            skip=self._tokenize.prompt_tokens() if excludes_prompt(self._sentence.layers) and self._prompt else 0,
            truncate=self._truncate,
        )

    def reference(self, rows: pa.Table, finished: pa.Table) -> Reference:
        vectors = finished.column("embedding").combine_chunks()
        return against_sentence_transformers(
            self._folder,
            rows.column("text"),
            vectors.flatten().to_numpy().reshape(len(vectors), -1).astype(np.float64),
            prompt=self._prompt,
            truncate=self._truncate,
            max_length=self._tokenize.other_limit,
        )


family = FamilyKind(
    settings=Settings,
    fragment_rows=1024,
    make=make,
)
