"""Numbers in, numbers out: tabular models, and any model file whose inputs are plain tensors.

Roles are the model's own inputs. A source column is a number a row, or a list of numbers that is reshaped to the
input's sizes; several columns side by side make one input. An `.onnx` or `.pt2` file says itself what it takes and
gives; weights of a class (`model.class`) need `model.outputs`, and forward's parameter names are the roles. Rows of
different lengths never share a call, so nothing is padded.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer import plugins
from optinfer.artifact import Artifact
from optinfer.errors import ConfigError, suggest
from optinfer.families import Arrays, Columns, Family, Features
from optinfer.families._graph import Port, Signature, onnx_signature, pt2_signature
from optinfer.families._numbers import NumericFeatures, Ragged, kind_of, read_numbers, require_numbers, wrong_lengths

SETTINGS = ("class", "arguments", "outputs")
FRAGMENT_ROWS = 16384


def load(model: Artifact, settings: dict[str, Any]) -> Family:
    return Tensor(model, settings.get("class"), settings.get("arguments") or {}, settings.get("outputs") or {})


class Tensor(Family):
    """Columns gained: one for each output, by its name; a number, or a fixed-size list of a row's numbers."""

    max_batch_size = 1024

    def __init__(self, model: Artifact, spec: str | None, arguments: dict[str, Any], outputs: dict[str, int]) -> None:
        self._model, self._spec, self._arguments = model, spec, arguments
        signature = _declared(self._signature(outputs), outputs)
        self._ports = signature.inputs
        self.roles = self.inputs = tuple(port.name for port in signature.inputs)
        self.outputs = tuple(port.name for port in signature.outputs)
        self.dynamic_axes = {
            p.name: {0: "rows"} | {axis: f"{p.name}_{axis}" for axis in p.varying} for p in signature.inputs
        }
        self.schema = pa.schema([(port.name, _column_type(port)) for port in signature.outputs])
        self.metrics = _metrics(signature.outputs)
        if fixed := [port.fixed_rows for port in signature.inputs if port.fixed_rows]:
            self.max_batch_size = fixed[0]
            if fixed[0] > 1:
                raise ConfigError(f"{model.file} takes exactly {fixed[0]} rows a call; export it with a dynamic batch")

    def check(self, schema: pa.Schema, columns: Columns) -> None:
        for port in self._ports:
            given = columns[port.name]
            names = (given,) if isinstance(given, str) else given
            for name in names:
                kind = schema.field(name).type
                require_numbers(port.name, repr(name), kind, port.dtype)
                if len(names) > 1 and kind_of(kind) is not kind:
                    raise ConfigError(f"column {name!r} holds {kind}: columns side by side must be plain numbers")
                if port.dims is None and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
                    raise ConfigError(
                        f"column {name!r} has lists of any length, a class needs one length: make it a fixed-size "
                        "list, or save the model with torch.export (.pt2), which says what varies"
                    )
            if port.dims is not None and not port.varying and len(names) not in (1, port.step):
                raise ConfigError(f"input {port.name!r} takes {port.step} numbers, {len(names)} columns are given")
            if len(port.varying) > 1:
                raise ConfigError(f"input {port.name!r} varies along {len(port.varying)} axes; one is understood")

    def preprocess(self, table: pa.Table) -> Features:
        columns: dict[str, Ragged] = {}
        rejected: dict[int, str] = {}
        for port in self._ports:
            column = table.column(port.name)
            kind = kind_of(column.type)
            dtype = port.dtype or ("float32" if pa.types.is_floating(kind) else "int64")
            columns[port.name], refused = read_numbers(column, dtype)
            rejected |= wrong_lengths(port, columns[port.name]) | refused
        varying = [columns[p.name].lengths // p.step for p in self._ports if p.varying]
        for other in varying[1:]:
            rejected |= {int(i): "its inputs differ in length" for i in np.flatnonzero(other != varying[0])}
        return NumericFeatures(
            rows=table.num_rows,
            lengths=varying[0] if varying else None,
            same_length=bool(varying),
            rejected=rejected,
            columns=columns,
            dims={port.name: self._dims(port, table) for port in self._ports},
        )

    def postprocess(self, outputs: Arrays) -> pa.Table:
        return pa.Table.from_arrays([_column(outputs[f.name], f.type) for f in self.schema], schema=self.schema)

    def answers(self, outputs: Arrays) -> np.ndarray[Any, Any]:
        first = outputs[self.outputs[0]]
        flat = first.reshape(len(first), -1)
        return np.nan_to_num(flat, nan=-np.inf).argmax(axis=1) if flat.shape[1] > 1 else flat[:, 0]

    def load_module(self) -> Any:
        from optinfer.families._torch_files import load_pt2, load_weights

        if self._model.entry.endswith(".pt2"):
            return load_pt2(self._model.file)
        return load_weights(self._class()(**self._arguments), self._model.file)

    def _signature(self, outputs: dict[str, int]) -> Signature:
        if self._model.format == "onnx":
            return onnx_signature(self._model.file)
        if self._model.entry.endswith(".pt2"):
            return pt2_signature(self._model.file)
        if not self._spec or not outputs:
            raise ConfigError(
                f"{self._model.file} does not say what it takes and gives; add model.class: module:Class and "
                "model.outputs: {name: numbers a row} (0 for one plain number), or save it as .onnx or .pt2"
            )
        parameters = list(inspect.signature(self._class().forward).parameters)[1:]
        return Signature(tuple(map(Port, parameters)), ())

    def _class(self) -> Any:
        return plugins.load_class(self._spec or "")

    def _dims(self, port: Port, table: pa.Table) -> tuple[int | None, ...] | None:
        if port.dims is not None:
            return port.dims
        kind = table.column(port.name).type
        return () if kind_of(kind) is kind else None


def _declared(signature: Signature, outputs: dict[str, int]) -> Signature:
    """Put what the job says of outputs in the place of what the file says."""
    known = {port.name: port for port in signature.outputs}
    if not outputs:
        chosen = signature.outputs
    elif known and (unknown := [name for name in outputs if name not in known]):
        raise ConfigError(f"model.outputs: the model has no output {unknown[0]!r}" + suggest(unknown[0], known))
    else:
        chosen = tuple(
            Port(name, known[name].dtype if name in known else "float32", (width,) if width else ())
            for name, width in outputs.items()
        )
    if not chosen:
        raise ConfigError("the model gives no numeric tensor; export it with one (scikit-learn: zipmap off)")
    for port in chosen:
        if port.dims is None or port.varying:
            raise ConfigError(
                f"output {port.name!r} has no fixed size; add model.outputs: {{{port.name}: numbers a row}}"
            )
    return Signature(signature.inputs, chosen)


def _column_type(port: Port) -> pa.DataType:
    numbers = pa.from_numpy_dtype(_given(port.dtype))
    return pa.list_(numbers, port.step) if port.dims else numbers


def _given(dtype: str | None) -> np.dtype[Any]:
    """Return the type a session gives: floats always arrive as float32."""
    found = np.dtype(dtype or "float32")
    return np.dtype("float32") if found.kind == "f" else found


def _column(values: np.ndarray[Any, Any], kind: pa.DataType) -> Any:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values.reshape(len(values)), kind)
    flat = pa.array(np.ascontiguousarray(values).ravel(), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, kind.list_size)


def _metrics(outputs: tuple[Port, ...]) -> tuple[str, ...]:
    """One number a row has no direction: its variance is compared. A vector has."""
    return ("cosine", "top1_agreement", "r2") if any(port.step > 1 for port in outputs) else ("r2",)
