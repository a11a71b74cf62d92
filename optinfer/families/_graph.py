"""What a model takes and gives, and what a torch.export archive says of it; read without weights or torch.

What ONNX files say is read in `_onnx_file.py`.
"""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError

# torch's serialized type numbers (torch/_export/serde/schema.py, ScalarType)
_TORCH_TYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64"}
_TORCH_BOOL = 12
# How an archive writes a size that varies, when it is no sum or product of others.
_SYMBOL = re.compile(r"Symbol\('(\w+)'")
# The dtype of a port that takes or gives texts.
TEXT = "str"


@dataclass(frozen=True)
class Port:
    """One input or output.

    Attributes:
        dtype: numpy's name of the type (`TEXT` for strings), or None where the file does not tell.
        dims: sizes of the axes after the rows: a number, or None where it varies; None where the file does not tell.
        fixed_rows: the only number of rows a call may have, or None where any will do.
        most_rows: the largest number of rows a call may have, or None where the file sets no bound.
        activation: the softmax or sigmoid that an ONNX output comes out of, else nothing.
        scalar: it has no axis at all, so none for the rows.
        classes: what each of a row's numbers is the score of, where the file says so.
        refusal: why this output cannot become a column, else nothing.
        declared: only a converter said its sizes, which its operators do not tell.
    """

    name: str
    dtype: str | None = None
    dims: tuple[int | None, ...] | None = None
    fixed_rows: int | None = None
    most_rows: int | None = None
    activation: str = ""
    scalar: bool = False
    classes: tuple[str | int, ...] = ()
    refusal: str = ""
    declared: bool = False

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


def rows_a_call(port: Port, file: Path) -> int | None:
    """Return how many rows a call may have at most, None where the model's file sets no bound.

    Raises:
        ConfigError: it takes a fixed number of rows, so that the last ones of a table would not fill a call.
    """
    if port.fixed_rows and port.fixed_rows > 1:
        raise ConfigError(f"{file} takes exactly {port.fixed_rows} rows a call; export it with a dynamic batch")
    return port.fixed_rows or port.most_rows


def pt2_signature(path: Path) -> Signature:
    """Read the inputs and outputs of a torch.export archive from its own JSON description.

    Raises:
        ConfigError: the file is no such archive, or its forward takes something other than tensors.
    """
    program = _pt2_description(path)
    values, ranges = program["graph_module"]["graph"]["tensor_values"], program["range_constraints"]
    signature = program["graph_module"]["signature"]
    inputs = [spec["user_input"]["arg"] for spec in signature["input_specs"] if "user_input" in spec]
    outputs = [spec["user_output"]["arg"] for spec in signature["output_specs"] if "user_output" in spec]
    if any("as_tensor" not in arg for arg in [*inputs, *outputs]):
        raise ConfigError(f"{path} takes or gives something other than tensors; export a forward of tensors only")
    taken = [_pt2_port(arg["as_tensor"]["name"], values, ranges) for arg in inputs]
    if scalars := [port.name for port in taken if port.scalar]:
        raise ConfigError(f"{path}: input {scalars[0]!r} is one value for all rows; export a forward that holds it")
    # An archive says of each size what it is computed from.
    rows = {_pt2_rows(values[port.name]) for port in taken}
    given = [_pt2_port(arg["as_tensor"]["name"], values, ranges) for arg in outputs]
    other = "has another first axis than the inputs, so not one entry for each row"
    return Signature(
        tuple(taken), tuple(p if _pt2_rows(values[p.name]) in rows else replace(p, refusal=other) for p in given)
    )


def _pt2_description(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if "/models/" in n and n.endswith(".json")]
            description: dict[str, Any] = json.loads(archive.read(names[0]))
    except (OSError, zipfile.BadZipFile, IndexError, ValueError) as error:
        raise ConfigError(f"{path} is not a torch.export archive: {error}; write it with torch.export.save") from error
    return description


def _pt2_port(name: str, values: dict[str, Any], ranges: dict[str, Any]) -> Port:
    meta = values[name]
    dtype = "bool" if meta["dtype"] == _TORCH_BOOL else _TORCH_TYPES.get(meta["dtype"])
    sizes = [size.get("as_int") for size in meta["sizes"]]
    rows = _SYMBOL.match(meta["sizes"][0].get("as_expr", {}).get("expr_str", "")) if sizes else None
    most = ranges.get(rows[1], {}).get("max_val") if rows else None
    return Port(name, dtype, tuple(sizes[1:]), sizes[0] if sizes else None, most, scalar=not sizes)


def _pt2_rows(meta: dict[str, Any]) -> Any:
    """Return the size of the first axis: a number, or how it is computed; None without any axis."""
    first = meta["sizes"][0] if meta["sizes"] else {}
    return first.get("as_int", first.get("as_expr", {}).get("expr_str"))
