"""Finished rows of images held against transformers: its own decoder, processor and model, one image at a time.

The library has two kinds of processors; the one that uses Pillow is asked, whether or not torchvision is installed:
torchvision's resizing differs by a grey level, and models were published with either.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa

from optinfer.families import ROUNDING, Reference
from optinfer.families._processors import processor_name, settings_file
from optinfer.families._settings import read_json
from optinfer.system.quiet import muted

_SAFE = {"local_files_only": True, "trust_remote_code": False}


# From an image to what the library says: a score for each label.
class Label(TypedDict):
    """A class with its score, as pipelines of transformers give it."""

    label: str
    score: float


Classify = Callable[[Any], list[Label]]


@dataclass(frozen=True)
class Told:
    """Encoded images, what was said of them, and above what a label had to score, None where only the best count."""

    images: Sequence[bytes]
    finished: pa.Table
    threshold: float | None


def against_pipeline(folder: Path, told: Told) -> Reference:
    """Compare with transformers' `pipeline("image-classification")` on a folder."""
    with muted():
        return _held(lambda: pipeline_of(folder), told)


def against_onnx(folder: Path, file: Path, told: Told, gives_scores: bool, channels_last: bool) -> Reference:
    """Compare with transformers' processor, a plain ONNX Runtime session and transformers' own scores of its logits."""
    found = settings_file(folder)
    config = read_json(folder / "config.json")
    if found is None or not (processor_name(found[1]) or config.get("model_type")):
        return Reference(note=f"{folder} names no image processor of transformers: nobody compared")
    with muted():
        return _held(lambda: _onnx(folder, file, config, gives_scores, channels_last), told)


def pipeline_of(folder: Path) -> Classify:
    import torch
    from transformers import AutoModelForImageClassification, pipeline

    safe = any(folder.glob("*.safetensors"))
    model = AutoModelForImageClassification.from_pretrained(
        folder, use_safetensors=safe, dtype=torch.float32, **_SAFE
    ).eval()
    classify = pipeline("image-classification", model=model, image_processor=_processor(folder), device="cpu")
    return lambda image: classify(image, top_k=model.config.num_labels)


def _onnx(folder: Path, file: Path, config: dict[str, Any], gives_scores: bool, channels_last: bool) -> Classify:
    import onnxruntime
    import torch
    from transformers import ImageClassificationPipeline, PreTrainedConfig
    from transformers.image_utils import load_image

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Else 8-bit products saturate on CPUs without VNNI, and the file means other answers than it gives.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name, processor = session.get_inputs()[0].name, _processor(folder)
    outputs = [output.name for output in session.get_outputs()]
    answer = outputs.index("logits") if "logits" in outputs else 0
    known = {key: config[key] for key in ("id2label", "num_labels", "problem_type") if config.get(key) is not None}
    model = SimpleNamespace(model=SimpleNamespace(config=PreTrainedConfig(**known)))

    def classify(image: Any) -> list[Label]:
        pixels = processor(images=load_image(image), return_tensors="np")["pixel_values"]
        given = np.moveaxis(pixels, 1, -1) if channels_last else pixels
        logits = torch.from_numpy(session.run(None, {name: np.ascontiguousarray(given, dtype=np.float32)})[answer])
        function = "none" if gives_scores else None
        return _scores(ImageClassificationPipeline, model, logits, function)

    return classify


def _scores(pipeline: Any, model: Any, logits: Any, function: str | None) -> list[Label]:
    from transformers.pipelines.text_classification import ClassificationFunction

    chosen = ClassificationFunction(function) if function else None
    scores: list[Label] = pipeline.postprocess(
        model, {"logits": logits}, function_to_apply=chosen, top_k=model.model.config.num_labels
    )
    return scores


def _processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, backend="pil", **_SAFE)


def _held(load: Callable[[], Classify], told: Told) -> Reference:
    import transformers
    from PIL import Image

    known: dict[str, Any] = {"library": "transformers", "version": transformers.__version__}
    try:
        classify = load()
    except Exception as error:
        return Reference(**known, note=f"it cannot load this model, nobody compared: {error}"[:300])
    largest, scale, note = 0.0, 1.0, ""
    for i, (image, row) in enumerate(zip(told.images, told.finished.to_pylist(), strict=True)):
        try:
            theirs = classify(Image.open(io.BytesIO(image)))
        except Exception as error:
            largest, note = scale, f"it refuses row {i} of the sample: {type(error).__name__}: {error}"[:300]
            break
        scale = max([scale, *(abs(one["score"]) for one in theirs)])
        apart = _apart(theirs, *_labelled(row), told.threshold)
        if apart > largest:
            largest, note = apart, f"most in row {i} of the sample: {theirs[0]} there, {row} here"[:300]
    return Reference(**known, rows=len(told.images), largest_difference=largest / scale, tolerance=ROUNDING, note=note)


def _labelled(row: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    return (row["labels"], row["scores"]) if "labels" in row else ([row["label"]], [row["score"]])


def _apart(theirs: list[Label], labels: list[str], scores: list[float], threshold: float | None) -> float:
    """Return how far our scores are from the library's for the labels that we gave, and from its best ones.

    Two classes that are equally likely may change places; a label by a wrong name may not. Where a threshold chose the
    labels, the worst of them scores no less than that there, and the best of the others no more.
    """
    best = [one["score"] for one in theirs]
    largest = 0.0
    for label, score, place in zip(labels, scores, best, strict=False):
        own = [one["score"] for one in theirs if one["label"] == label]
        if not own:
            return 1.0
        nearest = min((abs(score - other) for other in own), default=1.0)
        largest = max(largest, nearest, abs(score - place))
    if threshold is not None:
        chosen, others = best[: len(labels)], best[len(labels) :]
        largest = max([largest, *(threshold - score for score in chosen), *(score - threshold for score in others)])
    return largest
