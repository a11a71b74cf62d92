"""Logits to labels and scores: shared by the classification families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.errors import ConfigError
from optinfer.families import Arrays
from optinfer.families._text import read_json

OUTPUT = "logits"


class Classes:
    """The classes a model's config.json names.

    One class a row gives the columns `label` and `score`; with `top_k` they are the lists `labels` and `scores`, best
    first. Scores are softmax probabilities, or each class's own (sigmoid) where the model is a multi-label one; a model
    that ends in one of the two (`gives_scores`) has done that itself.
    """

    def __init__(self, folder: Path, top_k: int | None, gives_scores: bool = False) -> None:
        config = read_json(folder / "config.json")
        named = {int(index): str(name) for index, name in (config.get("id2label") or {}).items()}
        if not named or sorted(named) != list(range(len(named))):
            raise ConfigError(f"{folder}/config.json does not name its classes; add id2label: {{0: ..., 1: ...}}")
        if top_k and top_k > len(named):
            raise ConfigError(f"model.top_k {top_k} is more than the model's {len(named)} classes; lower it")
        self.names = np.array([named[i] for i in range(len(named))], dtype=object)
        self._top_k = top_k
        self._gives_scores = gives_scores
        self._each_its_own = config.get("problem_type") == "multi_label_classification"
        one, many = [("label", pa.string()), ("score", pa.float32())], []
        if top_k:
            many = [("labels", pa.list_(pa.string(), top_k)), ("scores", pa.list_(pa.float32(), top_k))]
        self.schema = pa.schema(many or one)

    def answers(self, outputs: Arrays) -> np.ndarray[Any, Any]:
        """Return (rows,) each row's most likely class, by name."""
        return self.names[np.nan_to_num(outputs[OUTPUT], nan=-np.inf).argmax(axis=1)]

    def table(self, outputs: Arrays) -> pa.Table:
        scores = self._scores(outputs[OUTPUT].astype(np.float64))
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self._top_k or 1]
        names = pa.array(self.names[best].ravel(), pa.string())
        values = pa.array(np.take_along_axis(scores, best, axis=1).ravel(), pa.float32())
        if self._top_k:
            lists = [pa.FixedSizeListArray.from_arrays(column, self._top_k) for column in (names, values)]
            return pa.Table.from_arrays(lists, schema=self.schema)
        return pa.Table.from_arrays([names, values], schema=self.schema)

    def _scores(self, logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self._gives_scores:
            return logits
        if self._each_its_own:
            return np.asarray(1 / (1 + np.exp(-logits)))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
