"""Texts to classes: a transformers sequence classifier, or a sentence-transformers folder that ends in a Dense layer.

The head is part of the model, so a variant that is quantized or pruned is judged by the classes it gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.errors import ConfigError
from optinfer.families import Arrays, Columns, Family, FamilyKind, Features, Reference
from optinfer.families._classes import OUTPUT, Classes
from optinfer.families._job_settings import LabelSettings, TextSettings
from optinfer.families._limits import check_positions
from optinfer.families._reference import against_pipeline, against_sentence_classifier
from optinfer.families._sentence import Sentence, excludes_prompt, read_sentence, width_of
from optinfer.families._sentence_module import load_sentence_module, needs_types, without_cache
from optinfer.families._settings import read_json
from optinfer.families._text import DYNAMIC_AXES, INPUTS, load_encoder, require_folder, require_strings
from optinfer.families._tokens import Reading, TextTokenizer
from optinfer.models.artifact import Artifact


class Settings(TextSettings, LabelSettings):
    """What a job may say of a classifier of texts."""


def make(model: Artifact, settings: Settings) -> Family:
    return TextClassification(require_folder(model), model.key, settings)


class TextClassification(Family):
    """Columns gained: `label` and `score`; with `top_k` or `threshold`, `labels` and `scores`."""

    roles = ("text",)
    inputs = INPUTS
    outputs = (OUTPUT,)
    dynamic_axes = DYNAMIC_AXES

    def __init__(self, folder: Path, key: str, settings: Settings) -> None:
        self._folder = folder
        self._sentence = read_sentence(folder) if (folder / "modules.json").is_file() else None
        self._classes = Classes(folder, settings, must_name=self._sentence is not None)
        self.metrics, self.advised = self._classes.metrics, self._classes.advised
        self.libraries = ("transformers",) if self._sentence is None else ("sentence-transformers",)
        _check_head(folder, self._sentence, len(self._classes.names))
        sentence = self._sentence or Sentence(layers=(), prompts={}, named=False)
        self._prompt = sentence.prompt(folder, settings.prompt, settings.prompt_name)
        self._tokenize = TextTokenizer(
            Reading(
                folder=folder,
                key=key,
                max_length=settings.max_length,
                meant=sentence.max_length,
                lower=sentence.lower,
                capped=sentence.named,
                prompt=self._prompt,
            )
        )
        self.schema = self._classes.schema

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self._classes.single

    def check(self, schema: pa.Schema, columns: Columns) -> None:
        require_strings(schema, columns)

    def preprocess(self, table: pa.Table) -> Features:
        return self._tokenize(table.column("text"))

    def postprocess(self, outputs: Arrays) -> pa.Table:
        return self._classes.table(outputs)

    def answers(self, outputs: Arrays) -> np.ndarray[Any, Any]:
        return self._classes.answers(outputs)

    def load_module(self) -> Any:
        if self._sentence is None:
            return _load_classifier(self._folder, self._tokenize)
        layers = self._sentence.layers
        skip = self._tokenize.prompt_tokens() if excludes_prompt(layers) and self._prompt else 0
        return load_sentence_module(self._folder, layers, self._tokenize, skip=skip, truncate=self._sentence.truncate)

    def reference(self, rows: pa.Table, finished: pa.Table) -> Reference:
        texts, limit = rows.column("text"), self._tokenize.other_limit
        if self._sentence is None:
            return against_pipeline(
                self._folder, texts, finished, self._classes.threshold, prompt=self._prompt, max_length=limit
            )
        return against_sentence_classifier(
            self._folder, texts, finished, self._classes, prompt=self._prompt, max_length=limit
        )


def _load_classifier(folder: Path, tokenize: TextTokenizer) -> Any:
    """Return transformers' own classifier as a module from (input_ids, attention_mask) to logits."""
    import torch

    class Classifier(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model
            self.types = tokenize.facts.types and needs_types(model)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            given = {"token_type_ids": torch.zeros_like(input_ids)} if self.types else {}
            return self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **given).logits

    model = without_cache(load_encoder(folder, "AutoModelForSequenceClassification"))
    _check_padding(folder, model.config.pad_token_id)
    check_positions(folder, model, tokenize.limit)
    return Classifier(model).eval()


def _check_padding(folder: Path, pad_id: int | None) -> None:
    """Refuse what cannot tell a text from its padding: a decoder classifies by the last token that is none."""
    if pad_id is None:
        raise ConfigError(f"{folder}/config.json has no pad_token_id; set it to the padding token's")


def _check_head(folder: Path, sentence: Sentence | None, classes: int) -> None:
    """Refuse an encoder without a head: transformers would give it random weights and only warn."""
    if sentence is None:
        config = read_json(folder / "config.json")
        architectures = config.get("architectures") or []
        if not any(name.endswith("ForSequenceClassification") for name in architectures):
            raise ConfigError(
                f"{folder} is {', '.join(architectures) or 'of no named architecture'}, not a sequence classifier; "
                "give a fine-tuned one, or a sentence-transformers folder that ends in a Dense layer"
            )
        if "pad_token_id" in config:
            _check_padding(folder, config["pad_token_id"])
        return
    width = sentence.truncate or width_of(folder, sentence.layers)
    if not any(layer.kind == "Dense" for layer in sentence.layers) or width != classes:
        raise ConfigError(
            f"{folder} gives {width} numbers for the {classes} classes of its id2label; "
            "end it with a Dense layer of one output for each class"
        )


family = FamilyKind(
    settings=Settings,
    fragment_rows=1024,
    make=make,
)
