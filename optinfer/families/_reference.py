"""Finished rows held against the model's own library, which loads the user's folder itself.

sentence-transformers for embeddings (and for its folders that end in a classifier), transformers' pipeline for
classifiers. Rows are given one at a time: what a library does with neighbours is no part of the model. Nothing is
downloaded, no code of the folder runs, and nothing is printed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.families import ROUNDING, Reference
from optinfer.families._classes import Classes
from optinfer.system.machine import installed
from optinfer.system.quiet import muted

_SAFE = {"local_files_only": True, "trust_remote_code": False}

# What a library says of one text.
Labelled = list[tuple[str, float]]


def against_sentence_transformers(
    folder: Path,
    texts: pa.ChunkedArray,
    ours: np.ndarray[Any, Any],
    *,
    prompt: str,
    truncate: int | None,
    max_length: int | None,
) -> Reference:
    """Compare (rows, width) vectors with `SentenceTransformer(folder).encode`.

    Args:
        max_length: tokens kept of a text, where the library would keep another number by itself.
    """
    library = "sentence-transformers"
    if find_spec("sentence_transformers") is None:
        return Reference(library=library, note=f"{library} is not installed: nobody compared")
    theirs = sentence_transformers(folder, texts.to_pylist(), prompt, truncate, max_length)
    return _compared(library, installed(library), theirs, ours)


def sentence_transformers(
    folder: Path, texts: list[str], prompt: str, truncate: int | None, max_length: int | None
) -> np.ndarray[Any, Any]:
    """Return (rows, width) what that library gives for texts."""
    with _quietly():
        import torch
        from sentence_transformers import SentenceTransformer

        dtype = {"dtype": torch.float32, "use_safetensors": any(folder.glob("*.safetensors"))}
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs=dtype, **_SAFE)
        if max_length:
            model.max_seq_length = max_length
        encoded = model.encode(texts, prompt=prompt, truncate_dim=truncate, batch_size=1, show_progress_bar=False)
        return np.asarray(encoded, dtype=np.float64)


def against_pipeline(
    folder: Path,
    texts: pa.ChunkedArray,
    finished: pa.Table,
    threshold: float | None,
    *,
    prompt: str,
    max_length: int | None,
) -> Reference:
    """Compare labels and scores with transformers' `pipeline("text-classification")`.

    The score compared is the one that the library gives to the label we gave: of two classes that are equally likely
    either may be named first, a class by a wrong name is seen.
    """
    scores = text_classification_pipeline(folder, [prompt + text for text in texts.to_pylist()], max_length)
    theirs, ours = paired(scores, finished, threshold)
    return _compared("transformers", installed("transformers"), theirs, ours)


def against_sentence_classifier(
    folder: Path, texts: pa.ChunkedArray, finished: pa.Table, classes: Classes, *, prompt: str, max_length: int | None
) -> Reference:
    """Compare labels and scores with what `SentenceTransformer(folder).encode` gives: that library names no classes."""
    library = "sentence-transformers"
    if find_spec("sentence_transformers") is None:
        return Reference(library=library, note=f"{library} is not installed: nobody compared")
    logits = sentence_transformers(folder, texts.to_pylist(), prompt, None, max_length)
    scores = [list(zip(classes.names, row, strict=True)) for row in classes.scores(logits)]
    theirs, ours = paired(scores, finished, classes.threshold)
    return _compared(library, installed(library), theirs, ours)


def text_classification_pipeline(folder: Path, texts: list[str], max_length: int | None) -> list[Labelled]:
    """Return for each text the score that the pipeline gives to each label."""
    with _quietly():
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=any(folder.glob("*.safetensors")), **_SAFE
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **_SAFE)
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
        cut = {"truncation": True, **({"max_length": max_length} if max_length else {})}
        return [[(str(row["label"]), row["score"]) for row in classify(text, top_k=None, **cut)] for text in texts]


def paired(
    scores: list[Labelled], finished: pa.Table, threshold: float | None = None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return (rows, 2 x classes given): the library's score for each label of a finished row, its best ones, and ours.

    Of classes of one name (ImageNet has two cranes) the nearest score counts. Where a threshold chose the labels, the
    worst of them scores no less than that there, and the best of the others no more.
    """
    many = "labels" in finished.column_names
    labels = finished.column("labels" if many else "label").to_pylist()
    values = finished.column("scores" if many else "score").to_pylist()
    pairs = zip(
        scores, labels if many else [[n] for n in labels], values if many else [[v] for v in values], strict=True
    )
    theirs, ours = [], []
    for row, names, own in pairs:
        best = sorted((score for _, score in row), reverse=True)[: len(own)]
        theirs.append([*(_nearest(row, name, score) for name, score in zip(names, own, strict=True)), *best])
        ours.append([*own, *own])
        if threshold is not None:
            ranked = sorted((score for _, score in row), reverse=True)
            theirs[-1] += [min([threshold, *ranked[: len(own)]]), max([threshold, *ranked[len(own) :]])]
            ours[-1] += [threshold, threshold]
    return _even(theirs), _even(ours)


def _even(rows: list[list[float]]) -> np.ndarray[Any, Any]:
    """Return rows of different lengths as one array, filled up with zeros."""
    filled = np.zeros((len(rows), max(map(len, rows), default=0)))
    for row, values in zip(filled, rows, strict=True):
        row[: len(values)] = values
    return filled


def _nearest(row: Labelled, name: str, score: float) -> float:
    """Return the library's score for a label, NaN where it has none of that name."""
    return min((s for label, s in row if label == name), key=lambda s: abs(s - score), default=np.nan)


def _compared(library: str, version: str | None, theirs: Any, ours: Any) -> Reference:
    """Return the largest difference, as a share of the largest number that the library gave."""
    known: dict[str, Any] = {"library": library, "version": version or "", "rows": len(ours)}
    if theirs.shape != ours.shape:
        return Reference(
            **known,
            largest_difference=float("inf"),
            note=f"it gives {theirs.shape[1:]} numbers a row, optinfer {ours.shape[1:]}",
        )
    differences = np.nan_to_num(np.abs(theirs - ours), nan=np.inf)
    scale = max(float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)), 1e-3)
    row = int(differences.reshape(len(ours), -1).max(axis=1).argmax()) if len(ours) else 0
    return Reference(
        **known,
        largest_difference=float(differences.max(initial=0.0)) / scale,
        tolerance=ROUNDING,
        note=f"most in row {row}" if differences.max(initial=0.0) > 0 else "",
    )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep a library from printing, and from leaving torch with other settings."""
    import torch

    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    try:
        with muted():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)
