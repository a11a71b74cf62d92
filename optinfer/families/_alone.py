"""A model's own library on one row at a time, made of the columns' plain values: what finished rows are held against.

Nothing of the path that a job's rows take is used here: no batches, no arrays of whole columns, no session of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.families import ROUNDING, Reference
from optinfer.families._graph import TEXT, Port

Row = Mapping[str, Any]
# From a table of one row to that row's answer; it may hold more than a finished row does, e.g. the scores.
Answer = Callable[[pa.Table], Row]

_ANOTHER = 1.0
# fp32's rounding of numbers near 1 is much of a number far below; a hundredth of the largest is rounding to nobody.
_SMALL = 10.0
# Where even the largest is below this, nothing tells an answer from the rounding of larger numbers.
_LEAST = 1e-4
# Two scores this close may change places by rounding, and the label with them.
_TIE = 1e-5


def onnx_answer(path: Path, inputs: Sequence[Port], outputs: Sequence[Port]) -> Answer:
    """Return what a plain ONNX Runtime session says of a row: the file as it is, all of its outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Else 8-bit products saturate on CPUs without VNNI, and the file means other answers than it gives.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def answer(row: pa.Table) -> Row:
        values = row.to_pylist()[0]
        given = {port.name: _array(values[port.name], port) for port in inputs}
        results = dict(zip(names, session.run(None, given), strict=True))
        return {port.name: _value(results[port.name], port) for port in outputs}

    return answer


def torch_answer(module: Any, inputs: Sequence[Port], outputs: Sequence[Port]) -> Answer:
    """Return what a torch module says of a row."""
    import torch

    narrow = any(p.dtype == torch.bfloat16 for p in module.parameters())

    def tensor(value: Any, port: Port) -> Any:
        """Return an input; where the file tells no type that numpy has, floats are the weights' own bfloat16."""
        given = torch.from_numpy(_array(value, port))
        return given.bfloat16() if narrow and port.dtype is None and given.is_floating_point() else given

    def answer(row: pa.Table) -> Row:
        values = row.to_pylist()[0]
        given = [tensor(values[port.name], port) for port in inputs]
        with torch.inference_mode():
            results = module(*given)
        several = results if isinstance(results, tuple | list) else (results,)
        wide = [t.float() if t.dtype == torch.bfloat16 else t for t in several]
        return {p.name: _value(t.numpy(), p) for p, t in zip(outputs, wide, strict=True)}

    return answer


def held(library: str, answer: Answer, rows: pa.Table, finished: pa.Table) -> Reference:
    """Hold finished rows against a library's answers to the same rows, each alone.

    The last is asked first: what remembers the rows it has seen (a vocabulary that grows, a running mean) is found out.
    """
    import importlib

    largest, note = 0.0, ""
    theirs: list[Row] = []
    for i in reversed(range(rows.num_rows)):
        try:
            theirs.append(answer(rows.slice(i, 1)))
        except Exception as error:
            largest, note = _ANOTHER, f"{library} refuses row {i} of the sample: {type(error).__name__}: {error}"[:300]
            break
    else:
        largest, note = compare(theirs[::-1], finished.to_pylist())
    return Reference(
        library=library,
        version=str(importlib.import_module(library).__version__),
        rows=rows.num_rows,
        largest_difference=largest,
        tolerance=ROUNDING,
        note=note,
    )


def compare(theirs: Sequence[Row], ours: Sequence[Row]) -> tuple[float, str]:
    """Return how far two answers are apart at most, in shares of a column's largest number, and where.

    Where all are below 1, a column may be the difference of larger ones: then they are shares of up to 1.

    What is no number is the same or is another answer (1), unless the row's own scores say that two classes tie.
    """
    largest, note = 0.0, ""
    for name in ours[0] if ours else ():
        scale = _scale([abs(n) for row in theirs for n in _floats(row.get(name)) if np.isfinite(n)])
        for i, (their, our) in enumerate(zip(theirs, ours, strict=True)):
            apart = _apart(their.get(name), our[name]) / scale
            if apart > largest and not (apart * scale >= _ANOTHER and not _is_float(our[name]) and _ties(their)):
                largest = apart
                note = (
                    f"most in {name}, row {i} of the sample: {str(our[name])[:60]}, there {str(their.get(name))[:60]}"
                )
    return largest, note


def _scale(numbers: Sequence[float]) -> float:
    largest = max(numbers, default=1.0)
    return max(largest, min(1.0, _SMALL * largest), _LEAST)


def _array(value: Any, port: Port) -> np.ndarray[Any, Any]:
    """Return one row's input: a number, text, list or struct of columns, in the type and sizes that the model takes."""
    flat = list(_leaves(value))
    kind: Any = object if port.dtype == TEXT else port.dtype or ("float32" if _is_float(flat) else "int64")
    array = np.array(flat, dtype=kind)
    if port.dims is None:
        return array[None] if isinstance(value, list | dict) else array
    return array.reshape(1, *(-1 if size is None else size for size in port.dims))


def _value(result: Any, port: Port) -> Any:
    """Return one row's output as a column holds it; dictionaries of scores in the order of the file's classes."""
    if isinstance(result, list):
        return [float(result[0][name]) for name in port.classes]
    if len(result) != 1:
        raise ValueError(f"{port.name} has {len(result)} entries for one row")
    values = result.reshape(-1).tolist()
    return values if port.dims else values[0]


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return [value]
    return [leaf for part in value for leaf in _leaves(part)]


def _floats(value: Any) -> Iterable[float]:
    return [leaf for leaf in _leaves(value) if isinstance(leaf, float)]


def _is_float(value: Any) -> bool:
    return any(True for _ in _floats(value))


def _apart(their: Any, our: Any) -> float:
    """Return the largest difference of two values' numbers; 1 for what is no number and not the same."""
    one, other = list(_leaves(their)), list(_leaves(our))
    if len(one) != len(other):
        return _ANOTHER
    if not (_is_float(one) and _is_float(other)):
        return 0.0 if one == other else _ANOTHER
    a, b = np.array(one, dtype=np.float64), np.array(other, dtype=np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    apart = np.where(same, 0.0, np.abs(a - b))
    return float(np.nan_to_num(apart, nan=np.finfo(np.float64).max).max(initial=0.0))


def _ties(row: Row) -> bool:
    """Tell whether the two best of a row's scores are equal but for rounding."""
    for value in row.values():
        scores = sorted(_floats(value), reverse=True)
        if len(scores) > 1 and scores[0] - scores[1] <= _TIE * max(1.0, abs(scores[0])):
            return True
    return False
