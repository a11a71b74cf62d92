"""Numbers in, numbers out: tabular models, and any model file whose inputs are plain tensors.

Roles are the model's own inputs. A source column is a number (or, where the model takes such, a text) a row, or a list
of numbers that is reshaped to the input's sizes; several columns side by side make one input. An `.onnx` or `.pt2` file
says itself what it takes and gives; `model.outputs` picks some of an `.onnx` file's outputs, and names a `.pt2` file's
in order. Weights of a class (`model.class`) need `model.outputs`, and the parameters of its forward are the roles.
`model.inputs` fixes sizes that vary. Where one still does, all of a row's inputs have the same length, and rows of
different lengths never share a call, so nothing is padded. An output comes out in its own type: labels stay whole
numbers or texts, doubles stay doubles.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from optinfer import plugins
from optinfer.errors import ConfigError, suggest
from optinfer.families import Arrays, Columns, Family, FamilyKind, Features, Reference
from optinfer.families._graph import TEXT, Port, Signature, pt2_signature, rows_a_call
from optinfer.families._job_settings import CodeSettings, PositiveInt
from optinfer.families._numbers import (
    NumericFeatures,
    Ragged,
    is_number,
    is_text,
    kind_of,
    numbers_a_row,
    read_numbers,
    require_kind,
    wrong_lengths,
)
from optinfer.families._onnx_file import onnx_signature
from optinfer.models.artifact import Artifact

# Of one input in a micro-batch where the job does not say: 1,024 rows of 4,096 numbers, 27 pictures of 3 x 224 x 224.
_NUMBERS_A_BATCH = 2**22


class Settings(CodeSettings):
    """What a job may say of a model of numbers."""

    younger = frozenset({"inputs"})

    inputs: dict[str, tuple[PositiveInt, ...]] = Field(
        default_factory=dict,
        description="`{input: [sizes of a row]}`, where the file lets several vary or tells none: `{x: [3, 224, 224]}`",
    )
    outputs: dict[str, int] = Field(
        default_factory=dict,
        description="`{output: numbers a row}`, where the file does not say",
    )


def make(model: Artifact, settings: Settings) -> Family:
    return Tensor(model, settings)


class Tensor(Family):
    """Columns gained: one for each output, by its name; a number, or a fixed-size list of a row's numbers."""

    max_batch_size = 1024

    def __init__(self, model: Artifact, settings: Settings) -> None:
        self._model, self._spec, self._arguments = model, settings.class_path, settings.arguments
        signature = _fixed(self._signature(settings.outputs), settings.inputs)
        self._ports = signature.inputs
        self.roles = self.inputs = tuple(port.name for port in signature.inputs)
        self._outputs = signature.outputs
        self.outputs = tuple(port.name for port in signature.outputs)
        self.dynamic_axes = {p.name: {0: "rows"} | dict.fromkeys(p.varying, "length") for p in signature.inputs}
        self.schema = pa.schema([(port.name, _column_type(port)) for port in signature.outputs])
        self.metrics = _metrics(signature.outputs)
        self.libraries = ("onnxruntime",) if model.format == "onnx" else ("torch",)
        bounds = [rows_a_call(port, model.file) for port in signature.inputs]
        self.most_rows = min((bound for bound in bounds if bound), default=None)
        for port in signature.inputs:
            if len(port.varying) > 1:
                sizes = ", ".join("?" if size is None else str(size) for size in port.dims or ())
                raise ConfigError(
                    f"input {port.name!r} varies along {len(port.varying)} axes, and a row's numbers can tell one size "
                    f"only; say those of this table: model.inputs: {{{port.name}: [{sizes}]}}"
                )
        largest = max((port.step for port in signature.inputs), default=1)
        self.max_batch_size = max(1, min(self.max_batch_size, _NUMBERS_A_BATCH // largest))

    def check(self, schema: pa.Schema, columns: Columns) -> None:
        for port in self._ports:
            given = columns[port.name]
            names = (given,) if isinstance(given, str) else given
            for name in names:
                kind = schema.field(name).type
                require_kind(port.name, repr(name), kind, port.dtype)
                if len(names) > 1 and not (is_number(kind) or is_text(kind)):
                    raise ConfigError(f"column {name!r} holds {kind}: columns side by side hold one value a row each")
                if port.dims is None and numbers_a_row(kind) is None:
                    raise ConfigError(
                        f"column {name!r} has lists of any length, a class needs one length: make it a fixed-size "
                        "list, or save the model with torch.export (.pt2), which says what varies"
                    )
            _require_width(port, given, numbers_a_row(kind) if len(names) == 1 else len(names))

    def preprocess(self, table: pa.Table) -> Features:
        columns: dict[str, Ragged] = {}
        rejected: dict[int, str] = {}
        for port in self._ports:
            column = table.column(port.name)
            dtype = port.dtype or ("float32" if pa.types.is_floating(kind_of(column.type)) else "int64")
            columns[port.name], refused = read_numbers(column, dtype)
            rejected = wrong_lengths(port, columns[port.name]) | refused | rejected
        varying = [columns[p.name].lengths // p.step for p in self._ports if p.varying]
        for other in varying[1:]:
            unlike = np.flatnonzero(other != varying[0])
            rejected = {int(i): "its inputs differ in length" for i in unlike} | rejected
        return NumericFeatures(
            rows=table.num_rows,
            lengths=varying[0] if varying else None,
            same_length=bool(varying),
            rejected=rejected,
            columns=columns,
            dims={port.name: self._dims(port, table) for port in self._ports},
        )

    def postprocess(self, outputs: Arrays) -> pa.Table:
        return pa.Table.from_arrays([_column(f.name, outputs[f.name], f.type) for f in self.schema], schema=self.schema)

    def answers(self, outputs: Arrays) -> np.ndarray[Any, Any]:
        first = outputs[self.outputs[0]]
        flat = first.reshape(len(first), -1)
        if flat.dtype == object:
            return flat[:, 0]
        return np.nan_to_num(flat, nan=-np.inf).argmax(axis=1) if flat.shape[1] > 1 else flat[:, 0]

    def reference(self, rows: pa.Table, finished: pa.Table) -> Reference:
        from optinfer.families import _alone

        if self._model.format == "onnx":
            answer: _alone.Answer = _alone.onnx_answer(self._model.file, self._ports, self._outputs)
        else:
            answer = _alone.torch_answer(self.load_module(), self._ports, self._outputs)
        return _alone.held(self.libraries[0], answer, rows, finished)

    def load_module(self) -> Any:
        from optinfer.families._torch_files import load_pt2, load_weights

        if self._model.entry.endswith(".pt2"):
            return load_pt2(self._model.file)
        return load_weights(plugins.make(self._spec or "", self._arguments), self._model.file)

    def _signature(self, outputs: dict[str, int]) -> Signature:
        if self._model.format == "onnx":
            return _chosen(onnx_signature(self._model.file), outputs)
        if self._model.entry.endswith(".pt2"):
            return _named(pt2_signature(self._model.file), outputs)
        if not self._model.entry:
            raise ConfigError(f"model.path {self._model.path} is a folder; tensor takes a file: name the one in it")
        if not self._spec or not outputs:
            raise ConfigError(
                f"{self._model.file} does not say what it takes and gives; add model.class: module:Class and "
                "model.outputs: {name: numbers a row} (0 for one plain number), or save it as .onnx or .pt2"
            )
        declared = (Port(name, "float32", (width,) if width else ()) for name, width in outputs.items())
        return Signature(tuple(map(Port, _parameters(plugins.load_class(self._spec)))), tuple(declared))

    def _dims(self, port: Port, table: pa.Table) -> tuple[int | None, ...] | None:
        if port.dims is not None:
            return port.dims
        return () if is_number(table.column(port.name).type) else None


def _fixed(signature: Signature, sizes: dict[str, tuple[int, ...]]) -> Signature:
    """Give inputs the sizes that the job says; those that the file says have to be the same."""
    known = {port.name: port for port in signature.inputs}
    for name, given in sizes.items():
        if name not in known:
            raise ConfigError(f"model.inputs: the model has no input {name!r}" + suggest(name, known))
        dims = known[name].dims
        if dims is not None and (
            len(dims) != len(given) or any(d not in (None, g) for d, g in zip(dims, given, strict=True))
        ):
            takes = ", ".join("any" if size is None else str(size) for size in dims)
            raise ConfigError(f"model.inputs: {name} is {list(given)}, the model takes [{takes}] a row; correct it")
        known[name] = replace(known[name], dims=given)
    return replace(signature, inputs=tuple(known.values()))


def _parameters(cls: Any) -> list[str]:
    """Return the parameters of a class's forward that a call must give."""
    _, *given = inspect.signature(cls.forward).parameters.values()
    return [p.name for p in given if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _chosen(signature: Signature, outputs: dict[str, int]) -> Signature:
    """Keep the outputs that the job names, all of them where it names none; its sizes where the file has none."""
    known = {port.name: port for port in signature.outputs}
    if unknown := [name for name in outputs if name not in known]:
        raise ConfigError(f"model.outputs: the model has no output {unknown[0]!r}" + suggest(unknown[0], known))
    _refuse_unfit([known[name] for name in outputs or known], signature)
    return _sized(signature, {name: known[name] for name in outputs or known}, outputs)


def _refuse_unfit(chosen: list[Port], signature: Signature) -> None:
    """Refuse an output that cannot become a column: nothing that a model gives is left out unless the job says so."""
    unfit = next((port for port in chosen if port.refusal), None)
    if unfit is None:
        return
    fit = ", ".join(f"{p.name}: {p.step if p.dims else 0}" for p in signature.outputs if not p.refusal)
    fix = (
        f"take the others only: model.outputs: {{{fit}}}" if fit else "export it with an output that has a row for each"
    )
    raise ConfigError(f"output {unfit.name!r} {unfit.refusal}; {fix}")


def _named(signature: Signature, outputs: dict[str, int]) -> Signature:
    """Name the outputs as the job does: an archive knows them by the operator that made them."""
    if outputs and len(outputs) != len(signature.outputs):
        raise ConfigError(
            f"model.outputs names {len(outputs)} outputs, the model has {len(signature.outputs)}: "
            f"{', '.join(port.name for port in signature.outputs)}; name all of them, in this order"
        )
    _refuse_unfit(list(signature.outputs), Signature(signature.inputs, ()))
    names = outputs or [port.name for port in signature.outputs]
    return _sized(signature, dict(zip(names, signature.outputs, strict=True)), outputs)


def _sized(signature: Signature, ports: dict[str, Port], outputs: dict[str, int]) -> Signature:
    """Give the signature these outputs, with the sizes that the file or else the job tells."""
    found = []
    for name, port in ports.items():
        said, known = outputs.get(name), port.dims is not None and not port.varying
        if said is None and not known:
            raise ConfigError(f"output {name!r} has no fixed size; add model.outputs: {{{name}: numbers a row}}")
        if said is not None and known and not port.declared and port.step != max(said, 1):
            raise ConfigError(
                f"model.outputs: {name} has {said} numbers a row, the model gives {port.step}; correct it"
            )
        dims = port.dims if said is None else (said,) if said else ()
        found.append(replace(port, name=name, dims=dims))
    return Signature(signature.inputs, tuple(found))


def _require_width(port: Port, given: str | tuple[str, ...], width: int | None) -> None:
    """Refuse columns with another number of numbers than the input takes, where both are known."""
    if port.dims is None or width is None:
        return
    if width % port.step if port.varying else width != port.step:
        takes = f"a multiple of {port.step}" if port.varying else str(port.step)
        raise ConfigError(
            f"input {port.name!r} takes {takes} numbers a row, source.columns gives it {width} ({given}); "
            "map a list column, or as many columns as it takes"
        )


def _column_type(port: Port) -> pa.DataType:
    """Return a column's type: the output's own, but Arrow has no use for halves that come out as float32."""
    if port.dtype == TEXT:
        values = pa.string()
    else:
        values = pa.from_numpy_dtype("float32" if port.dtype in (None, "float16") else port.dtype)
    return pa.list_(values, port.step) if port.dims else values


def _column(name: str, values: np.ndarray[Any, Any], kind: pa.DataType) -> Any:
    given, expected = values.size // max(len(values), 1), numbers_a_row(kind)
    if len(values) and given != expected:
        raise ConfigError(
            f"output {name!r} has {given} numbers a row, not {expected}; correct model.outputs: {{{name}: {given}}}"
        )
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values.reshape(len(values)), kind)
    flat = pa.array(np.ascontiguousarray(values).ravel(), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, kind.list_size)


def _metrics(outputs: tuple[Port, ...]) -> tuple[str, ...]:
    """One number a row has no direction: its variance is compared. A vector has. Labels are the same or are not."""
    numbers = [port for port in outputs if (port.dtype or "float32").startswith("float")]
    if not numbers:
        return ("top1_agreement", "r2")
    return ("cosine", "top1_agreement", "r2") if any(port.step > 1 for port in numbers) else ("r2",)


family = FamilyKind(
    settings=Settings,
    fragment_rows=16384,
    make=make,
)
