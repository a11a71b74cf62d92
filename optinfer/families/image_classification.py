"""Images to classes: encoded bytes or paths in, decoded with Pillow, prepared as the model's own files say.

The model is a transformers folder, or an ONNX file with `config.json` (the classes) and `preprocessor_config.json`
(size, crop, scale, mean, deviation) in its folder or the one above. An image that cannot be decoded rejects its row.
Answers are those of transformers' image-classification pipeline with the same files.
"""

from __future__ import annotations

import errno
import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.errors import ConfigError, SourceError, redact, scrubbed, without_secrets
from optinfer.families import Arrays, Columns, Family, FamilyKind, Features, Reference
from optinfer.families._classes import OUTPUT, Classes
from optinfer.families._graph import Port, Signature, rows_a_call
from optinfer.families._job_settings import LabelSettings
from optinfer.families._onnx_file import onnx_signature
from optinfer.families._pixels import LibraryPreparation, Preparation, preparation_of
from optinfer.families._processors import settings_file
from optinfer.families._settings import read_json
from optinfer.families._text import load_encoder
from optinfer.models.artifact import Artifact

_INPUT = "pixel_values"
_WEB = ("http://", "https://")
# What is wrong with a path, not with who was asked for it.
_NO_SUCH_FILE = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


class Settings(LabelSettings):
    """What a job may say of a classifier of images."""


def make(model: Artifact, settings: Settings) -> Family:
    return ImageClassification(model, settings)


@dataclass(kw_only=True)
class ImageFeatures(Features):
    """Images as the preparation keeps them; bytes are scaled and normalized only when a micro-batch is made of them."""

    name: str
    pixels: np.ndarray[Any, Any]
    preparation: Preparation | LibraryPreparation
    channels_last: bool

    def collate(self, rows: np.ndarray[Any, Any], pad_to: int = 0) -> Arrays:
        return {self.name: self.preparation.normalize(self.pixels[rows], channels_first=not self.channels_last)}


class ImageClassification(Family):
    """Columns gained: `label` and `score`; with `top_k` or `threshold`, `labels` and `scores`."""

    roles = ("image",)
    outputs: tuple[str, ...] = (OUTPUT,)
    libraries = ("transformers",)
    max_batch_size = 32

    def __init__(self, model: Artifact, settings: Settings) -> None:
        self._model = model
        self._folder = _described(model)
        graph = onnx_signature(model.file) if model.format == "onnx" else None
        config = read_json(self._folder / "config.json")
        answer = _answer(graph, model.file) if graph else None
        self._gives_scores = bool(answer and answer.activation)
        self._classes = Classes(self._folder, settings, gives_scores=self._gives_scores, must_name=False)
        self._preparation = preparation_of(self._folder, str(config.get("model_type") or ""))
        self._channels_last = False
        self.schema, self.metrics = self._classes.schema, self._classes.metrics
        self.advised = self._classes.advised
        self.inputs: tuple[str, ...] = (_INPUT,)
        if graph and answer:
            self._fit(graph, answer, model.file)
        self.dynamic_axes = {self.inputs[0]: {0: "rows"}}

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self._classes.single

    def check(self, schema: pa.Schema, columns: Columns) -> None:
        given = columns["image"]
        kind = schema.field(given).type if isinstance(given, str) else None
        if kind is None or not _holds_images(kind):
            raise ConfigError(
                f"column {given!r} holds {kind}, image needs encoded bytes, paths, or a struct with `bytes` or `path`"
            )

    def preprocess(self, table: pa.Table) -> Features:
        pixels = self._preparation.room(table.num_rows)
        rejected = {}
        for i, value in enumerate(table.column("image").to_pylist()):
            if value is None:
                rejected[i] = "image is null"
                continue
            try:
                pixels[i] = self._preparation.prepare(io.BytesIO(_encoded(value)))
            except SourceError:
                raise
            except Exception as error:
                rejected[i] = _refusal(error)
        return ImageFeatures(
            rows=table.num_rows,
            rejected=rejected,
            name=self.inputs[0],
            pixels=pixels,
            preparation=self._preparation,
            channels_last=self._channels_last,
        )

    def postprocess(self, outputs: Arrays) -> pa.Table:
        return self._classes.table(self._logits(outputs))

    def answers(self, outputs: Arrays) -> np.ndarray[Any, Any]:
        return self._classes.answers(self._logits(outputs))

    def reference(self, rows: pa.Table, finished: pa.Table) -> Reference:
        from optinfer.families import _image_reference

        images = [_encoded(value) for value in rows.column("image").to_pylist()]
        told = _image_reference.Told(images, finished, self._classes.threshold)
        if self._model.format != "onnx":
            return _image_reference.against_pipeline(self._folder, told)
        return _image_reference.against_onnx(
            self._folder, self._model.file, told, self._gives_scores, self._channels_last
        )

    def load_module(self) -> Any:
        import torch

        class Classifier(torch.nn.Module):
            def __init__(self, model: torch.nn.Module) -> None:
                super().__init__()
                self.model = model

            def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
                return self.model(pixel_values=pixel_values).logits

        return Classifier(load_encoder(self._folder, "AutoModelForImageClassification")).eval()

    def _logits(self, outputs: Arrays) -> Arrays:
        return {OUTPUT: outputs[self.outputs[0]]}

    def _fit(self, graph: Signature, answer: Port, file: Path) -> None:
        """Take names, layout and batch from the ONNX file; refuse one that does not fit its own description."""
        if len(graph.inputs) != 1:
            raise ConfigError(f"{file} has {len(graph.inputs)} inputs; an image model takes one")
        port = graph.inputs[0]
        if port.dtype not in (None, "float32"):
            raise ConfigError(f"{file} takes {port.dtype} pixels, optinfer gives float32; export it in fp32")
        dims = port.dims or (3, None, None)
        self._channels_last = len(dims) == 3 and dims[2] == 3 and dims[0] != 3
        expected = (*self._preparation.size, 3) if self._channels_last else (3, *self._preparation.size)
        if len(dims) != 3 or any(d not in (None, e) for d, e in zip(dims, expected, strict=True)):
            raise ConfigError(
                f"{file} takes images of {dims}, its preprocessor_config.json makes {expected}; correct it"
            )
        if answer.dims is not None and answer.dims not in ((None,), (len(self._classes.names),)):
            shape = " x ".join(map(str, answer.dims)) or "one"
            raise ConfigError(f"{file} gives {shape} numbers for the {len(self._classes.names)} named classes")
        self.inputs, self.outputs = (port.name,), (answer.name,)
        self.most_rows = rows_a_call(port, file)


def _answer(graph: Signature, file: Path) -> Port:
    """Return the output that holds the classes' numbers: the only one, or the one that is named like that."""
    numbers = [p for p in graph.outputs if not p.refusal and (p.dtype or "float32").startswith("float")]
    named = [port for port in numbers if port.name == OUTPUT]
    if len(numbers) != 1 and not named:
        given = ", ".join(port.name + (f" ({port.refusal})" if port.refusal else "") for port in graph.outputs)
        raise ConfigError(
            f"{file} gives {given}; an image classifier gives one number for each class: export it with that output "
            f"alone, or name it {OUTPUT!r}"
        )
    return (named or numbers)[0]


def _described(model: Artifact) -> Path:
    """Return the folder that holds the description: the model file's, or the one above it up to the model's.

    Raises:
        ConfigError: it is incomplete, or the model is neither a transformers folder nor an ONNX file.
    """
    if find_spec("PIL") is None:
        raise ConfigError("images need Pillow, which is not installed; fix: pip install 'optinfer[image]'")
    if model.format == "torch" and model.entry:
        raise ConfigError(
            f"model.path {model.file} is one file; image-classification needs a folder as save_pretrained writes it, "
            "or an .onnx file; family: custom takes any other"
        )
    folder = model.file.parent if model.entry else Path(model.path)
    for candidate in (folder, folder.parent) if folder != Path(model.path) else (folder,):
        if (candidate / "config.json").is_file() and settings_file(candidate):
            if model.format == "torch":
                _check_head(candidate)
            return candidate
    raise ConfigError(
        f"{folder} lacks config.json (with id2label) or preprocessor_config.json (size, image_mean, image_std); "
        "put both beside the model"
    )


def _check_head(folder: Path) -> None:
    """Refuse a backbone without a head: transformers would give it random weights and only warn."""
    config = read_json(folder / "config.json")
    if config.get("num_channels", 3) not in (None, 3):
        raise ConfigError(
            f"{folder} takes images of {config['num_channels']} channels; images arrive as RGB, also in transformers' "
            "pipeline: use family: custom, whose class prepares them"
        )
    architectures = config.get("architectures") or []
    if not any("ForImageClassification" in name for name in architectures):
        raise ConfigError(
            f"{folder} is {', '.join(architectures) or 'of no named architecture'}, not an image classifier; give a "
            "fine-tuned one"
        )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        known = [field for field in kind if field.name in ("bytes", "path")]
        return bool(known) and all(_holds_images(field.type) for field in known)
    return any(
        test(kind)
        for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string, pa.types.is_large_string)
    )


def _encoded(value: Any) -> bytes:
    """Return an image's bytes from a cell: bytes, a path or URL, or a struct of both.

    Raises:
        SourceError: a store does not give the file, which is no fault of the row's: rows of an outage are not rejected.
        OSError, ValueError: there is no such file, and no store would have one by that name.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path") or b""
    if not isinstance(value, str):
        return bytes(value)
    import fsspec

    try:
        with fsspec.open(value, "rb") as file:
            content: bytes = file.read()
            return content
    except Exception as error:
        # Of a web address, any host may be gone for good; a store that holds the others, too, is not.
        if value.startswith(_WEB) or isinstance(error, ValueError | FileNotFoundError | IsADirectoryError):
            raise
        if isinstance(error, OSError) and error.errno in _NO_SUCH_FILE:
            raise
        reason = f"{type(error).__name__}: {without_secrets(value, str(error))}"
        raise SourceError(
            f"image {redact(value)} cannot be read: {reason}; check that its store can be reached from here, and start "
            "the job again"
        ) from error


def _refusal(error: Exception) -> str:
    """Say why an image is rejected; Pillow's own words for a file it does not know hold a memory address."""
    if type(error).__name__ == "UnidentifiedImageError":
        return "image cannot be decoded: it is no image that Pillow knows, or it is empty"
    return scrubbed(f"image cannot be decoded: {type(error).__name__}: {error}")[:500]


family = FamilyKind(
    settings=Settings,
    # Prepared images of a fragment lie in memory together.
    fragment_rows=256,
    make=make,
)
