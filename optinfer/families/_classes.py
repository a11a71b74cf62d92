"""Logits to labels and scores: shared by the classification families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.errors import ConfigError
from optinfer.families import SAME_ANSWERS, Arrays, as_answers
from optinfer.families._job_settings import LabelSettings
from optinfer.families._settings import read_json

OUTPUT = "logits"
_MULTI_LABEL = "multi_label_classification"


class Classes:
    """The classes a model's config.json names, and what its numbers mean: as transformers' pipelines decide.

    One class a row gives the columns `label` and `score`; with `top_k` or `threshold` they are the lists `labels` and
    `scores`, best first. Scores are softmax probabilities; each class's own (sigmoid) where the model is a multi-label
    one or has a single class; the numbers themselves where it is a regression. A model that ends in a softmax or
    sigmoid (`gives_scores`) has done that itself.

    Attributes:
        names: (classes,) in the order of the model's outputs.
        metrics: how a variant's answers are compared with the baseline's, best first.
        threshold: what the score of a label has to be above, or None where a row has the best one whatever it scores.
        multi_label: a row may have any number of the classes.
    """

    def __init__(
        self, folder: Path, settings: LabelSettings, gives_scores: bool = False, must_name: bool = True
    ) -> None:
        config = read_json(folder / "config.json")
        self.names = np.array(_names(folder, config, must_name), dtype=object)
        top_k, self.threshold = settings.top_k, settings.threshold
        self.multi_label = config.get("problem_type") == _MULTI_LABEL
        if self.threshold is not None:
            _require_multi_label(folder, config, self.names)
        if top_k and top_k > len(self.names):
            raise ConfigError(f"model.top_k {top_k} is more than the model's {len(self.names)} classes; lower it")
        self._top_k = top_k
        self._function = "none" if gives_scores else _function(config, len(self.names))
        single = len(self.names) == 1
        self._numbers = self._function == "none" and not gives_scores
        # A single number is always the largest; numbers that are no classes have to be right, each of them.
        self.metrics: tuple[str, ...] = ("top1_agreement", "cosine")
        if single or self._numbers:
            self.metrics = ("r2",) if single else ("r2", "cosine")
        one, many = [("label", pa.string()), ("score", pa.float32())], []
        if self.threshold is not None:
            self.metrics = (SAME_ANSWERS, *self.metrics)
            many = [("labels", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))]
        if top_k:
            many = [("labels", pa.list_(pa.string(), top_k)), ("scores", pa.list_(pa.float32(), top_k))]
        self.schema = pa.schema(many or one)

    @property
    def advised(self) -> dict[str, tuple[object, str]]:
        """Return what a new job should say of the model (`Family.advised`)."""
        chosen = self.threshold is not None or self._top_k is not None
        if chosen or not self.multi_label or len(set(self.names)) < len(self.names):
            return {}
        return {"threshold": (0.5, "the model gives any number of labels a row; transformers' own example takes 0.5")}

    @property
    def single(self) -> tuple[str, ...] | None:
        """Return the names of what a row's answer may be, None where it has any number of them."""
        return None if self.threshold is not None else tuple(self.names)

    def answers(self, outputs: Arrays) -> np.ndarray[Any, Any]:
        """Return (rows,) each row's most likely class, by name; all above the threshold; of a regression its number."""
        logits = outputs[OUTPUT]
        if self.threshold is not None:
            with np.errstate(invalid="ignore"):
                above = self.scores(logits.astype(np.float64)) > self.threshold
            return as_answers([self.names[row] for row in above])
        if self._numbers and len(self.names) == 1:
            return np.asarray(logits[:, 0])
        return self.names[np.nan_to_num(logits, nan=-np.inf).argmax(axis=1)]

    def table(self, outputs: Arrays) -> pa.Table:
        scores = self.scores(outputs[OUTPUT].astype(np.float64))
        if self.threshold is not None:
            return self._above(scores, self.threshold)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self._top_k or 1]
        names = pa.array(self.names[best].ravel(), pa.string())
        values = pa.array(np.take_along_axis(scores, best, axis=1).ravel(), pa.float32())
        if self._top_k:
            lists = [pa.FixedSizeListArray.from_arrays(column, self._top_k) for column in (names, values)]
            return pa.Table.from_arrays(lists, schema=self.schema)
        return pa.Table.from_arrays([names, values], schema=self.schema)

    def _above(self, scores: np.ndarray[Any, Any], threshold: float) -> pa.Table:
        """Return the labels of each row that score above a threshold, best first."""
        order = np.argsort(-scores, axis=1, kind="stable")
        ranked = np.take_along_axis(scores, order, axis=1)
        kept = ranked > threshold
        offsets = pa.array(np.concatenate([[0], np.cumsum(kept.sum(axis=1))]), pa.int32())
        flat = (pa.array(self.names[order[kept]], pa.string()), pa.array(ranked[kept], pa.float32()))
        return pa.Table.from_arrays([pa.ListArray.from_arrays(offsets, v) for v in flat], schema=self.schema)

    def scores(self, logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return (rows, classes) scores of (rows, classes) logits."""
        if self._function == "none":
            return logits
        if self._function == "sigmoid":
            return np.asarray((1 + np.tanh(logits / 2)) / 2)  # the same, and finite for any number
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _function(config: dict[str, Any], classes: int) -> str:
    """Return what makes scores of logits: transformers 5.23, pipelines/{text,image}_classification.py, postprocess."""
    problem = config.get("problem_type")
    if problem == "regression":
        return "none"
    return "sigmoid" if problem == _MULTI_LABEL or classes == 1 else "softmax"


def _require_multi_label(folder: Path, config: dict[str, Any], names: np.ndarray[Any, Any]) -> None:
    """Refuse a threshold where scores are shares of one whole, or where a list of labels would not tell which is which.

    Raises:
        ConfigError: the model is no multi-label one, or two of its labels have one name.
    """
    if config.get("problem_type") != _MULTI_LABEL:
        raise ConfigError(
            f"model.threshold is for models that give any number of labels a row; {folder}/config.json has "
            f"problem_type {config.get('problem_type')!r}: remove model.threshold, take model.top_k, or, if the model "
            f'was trained for that, write "problem_type": "{_MULTI_LABEL}" there'
        )
    if len(set(names)) < len(names):
        raise ConfigError(
            f"{folder}/config.json gives two labels one name; correct id2label, or remove model.threshold"
        )


def _names(folder: Path, config: dict[str, Any], must_name: bool) -> list[str]:
    """Return the classes' names; without any, those that transformers gives (`PreTrainedConfig.num_labels`)."""
    named = {int(index): str(name) for index, name in (config.get("id2label") or {}).items()}
    if not named and not must_name:
        count = config.get("num_labels")
        return [f"LABEL_{i}" for i in range(2 if count is None else int(count))]
    if not named or sorted(named) != list(range(len(named))):
        raise ConfigError(f"{folder}/config.json does not name its classes; add id2label: {{0: ..., 1: ...}}")
    return [named[i] for i in range(len(named))]
