"""What a model file says of its own inputs and outputs, read without loading weights or torch."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError

# torch's serialized type numbers (torch/_export/serde/schema.py, ScalarType)
_TORCH_TYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64"}
_TORCH_BOOL = 12


@dataclass(frozen=True)
class Port:
    """One input or output.

    Attributes:
        dtype: numpy's name of the type, or None where the file does not tell.
        dims: sizes of the axes after the rows: a number, or None where it varies; None where the file does not tell.
        fixed_rows: the only number of rows a call may have, or None where any will do.
    """

    name: str
    dtype: str | None = None
    dims: tuple[int | None, ...] | None = None
    fixed_rows: int | None = None

    @property
    def step(self) -> int:
        """Numbers in one step of the axis that varies; all numbers of a row where none does."""
        return prod(d for d in self.dims or () if d is not None)

    @property
    def varying(self) -> list[int]:
        """Axes (rows are axis 0) whose size varies from row to row."""
        return [i + 1 for i, d in enumerate(self.dims or ()) if d is None]


@dataclass(frozen=True)
class Signature:
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def onnx_signature(path: Path) -> Signature:
    """Read an ONNX file's inputs and outputs; outputs that are no numeric tensors are left out.

    Raises:
        ConfigError: the file is no ONNX model.
    """
    import onnx

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:
        raise ConfigError(f"{path} is not an ONNX model: {error}") from error
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_onnx_port(value) for value in graph.input if value.name not in weights]
    outputs = [_onnx_port(value) for value in graph.output]
    if None in inputs:
        raise ConfigError(f"{path} has an input that is no numeric tensor; optinfer feeds numeric tensors only")
    return Signature(tuple(p for p in inputs if p), tuple(p for p in outputs if p))


def _onnx_port(value: Any) -> Port | None:
    from onnx import helper

    tensor = value.type.tensor_type
    if not tensor.elem_type:
        return None
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if dtype.kind not in "fiub":
        return None
    if not tensor.HasField("shape"):
        return Port(value.name, dtype.name)
    sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim]
    return Port(value.name, dtype.name, tuple(sizes[1:]), sizes[0] if sizes else None)


def pt2_signature(path: Path) -> Signature:
    """Read the inputs and outputs of a torch.export archive from its own JSON description.

    Raises:
        ConfigError: the file is no such archive, or its forward takes something other than tensors.
    """
    program = _pt2_description(path)
    values = program["graph_module"]["graph"]["tensor_values"]
    signature = program["graph_module"]["signature"]
    inputs = [spec["user_input"]["arg"] for spec in signature["input_specs"] if "user_input" in spec]
    outputs = [spec["user_output"]["arg"] for spec in signature["output_specs"] if "user_output" in spec]
    if any("as_tensor" not in arg for arg in [*inputs, *outputs]):
        raise ConfigError(f"{path} takes or gives something other than tensors; export a forward of tensors only")
    return Signature(
        tuple(_pt2_port(arg["as_tensor"]["name"], values) for arg in inputs),
        tuple(_pt2_port(arg["as_tensor"]["name"], values) for arg in outputs),
    )


def _pt2_description(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if "/models/" in n and n.endswith(".json")]
            description: dict[str, Any] = json.loads(archive.read(names[0]))
    except (OSError, zipfile.BadZipFile, IndexError, ValueError) as error:
        raise ConfigError(f"{path} is not a torch.export archive: {error}; write it with torch.export.save") from error
    return description


def _pt2_port(name: str, values: dict[str, Any]) -> Port:
    meta = values[name]
    dtype = "bool" if meta["dtype"] == _TORCH_BOOL else _TORCH_TYPES.get(meta["dtype"])
    sizes = [size.get("as_int") for size in meta["sizes"]]
    return Port(name, dtype, tuple(sizes[1:]), sizes[0] if sizes else None)
