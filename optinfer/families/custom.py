"""The user's own class decides what rows and outputs mean: `model.class: module:Class`, from the job's own code.

The class needs nothing of optinfer. It holds `roles`, `inputs` and `outputs` (tuples of names), `schema` (a pyarrow
schema of the columns a row gains), and

    load(path) -> torch module     its forward takes `inputs` in order, rows first, and gives `outputs`
    preprocess(table) -> dict      a table with a column per role to an array per input, one entry a row
    postprocess(outputs) -> table  an array per output to a pyarrow table of `schema`

and may hold `forward(module, *inputs)`, to be traced in the module's place, `dynamic_axes` (input -> {axis: name}; rows
alone vary otherwise), `metrics`, and `answers(outputs)` where a label column is to be compared. Where `preprocess` or
`postprocess` raises, rows are tried apart (inference/preparing.py), and those that raise are rejected.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer import plugins
from optinfer.errors import ConfigError, LoadError
from optinfer.families import Arrays, Columns, Family, FamilyKind, Features, Reference
from optinfer.families._job_settings import CodeSettings
from optinfer.models.artifact import Artifact

_NEEDED = ("roles", "inputs", "outputs", "schema", "load", "preprocess", "postprocess")


class Settings(CodeSettings):
    """What a job says of its own class."""


def make(model: Artifact, settings: Settings) -> Family:
    if not settings.class_path:
        raise ConfigError("family custom needs model.class: module:Class, importable from the working directory")
    return Custom(model, settings.class_path, settings.arguments)


@dataclass(kw_only=True)
class ArrayFeatures(Features):
    """One array an input, an entry for each row."""

    arrays: Arrays

    def collate(self, rows: np.ndarray[Any, Any], pad_to: int = 0) -> Arrays:
        return {name: values[rows] for name, values in self.arrays.items()}


class Custom(Family):
    """Columns gained: those of the class's `schema`."""

    libraries = ("torch",)

    def __init__(self, model: Artifact, spec: str, arguments: Mapping[str, object]) -> None:
        user = plugins.make(spec, arguments)
        if missing := [name for name in _NEEDED if not hasattr(user, name)]:
            raise ConfigError(f"{spec} has no {missing[0]}; a custom class needs {', '.join(_NEEDED)}")
        self._model, self._spec, self._arguments, self._user = model, spec, arguments, user
        self.roles, self.inputs, self.outputs = tuple(user.roles), tuple(user.inputs), tuple(user.outputs)
        self.schema = user.schema
        self.dynamic_axes = getattr(user, "dynamic_axes", {name: {0: "rows"} for name in self.inputs})
        self.metrics = tuple(getattr(user, "metrics", ("cosine", "top1_agreement", "r2")))

    def check(self, schema: pa.Schema, columns: Columns) -> None:
        """The class alone knows what it takes; a row it cannot use is rejected when it comes."""

    def preprocess(self, table: pa.Table) -> Features:
        # A class need not know what to make of no rows at all.
        return ArrayFeatures(rows=table.num_rows, arrays=self._arrays(table) if table.num_rows else {})

    def postprocess(self, outputs: Arrays) -> pa.Table:
        table = self._user.postprocess(outputs)
        if missing := [name for name in self.schema.names if name not in table.column_names]:
            raise LoadError(
                f"postprocess of {self._spec} gives {', '.join(table.column_names) or 'no columns'}, its schema has "
                f"{missing[0]!r} too; correct one of them"
            )
        return table.select(self.schema.names).cast(self.schema)

    def reference(self, rows: pa.Table, finished: pa.Table) -> Reference:
        """Hold rows in company against the class alone: load, preprocess, forward, postprocess, one row at a time.

        It is made anew and meets the last row first (`held`): what an object remembers of rows it has seen would be
        another in each replica, so no answer may depend on it.
        """
        from optinfer.families import _alone

        anew = Custom(self._model, self._spec, self._arguments)
        return _alone.held("torch", anew._answer_alone(), rows, finished)

    def answers(self, outputs: Arrays) -> np.ndarray[Any, Any]:
        if not hasattr(self._user, "answers"):
            return super().answers(outputs)
        return np.asarray(self._user.answers(outputs))

    def load_module(self) -> Any:
        import torch

        user, module = self._user, self._user.load(Path(self._model.file)).float().eval()
        if not hasattr(user, "forward"):
            return module

        class Forward(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.module = module

            def forward(self, *inputs: torch.Tensor) -> Any:
                return user.forward(self.module, *inputs)

        # Exporters read the names of the inputs from the signature, and take `*inputs` for a single one.
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in ("self", *self.inputs)]
        Forward.forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return Forward().eval()

    def _answer_alone(self) -> Callable[[pa.Table], dict[str, Any]]:
        import torch

        module = self.load_module()

        def answer(row: pa.Table) -> dict[str, Any]:
            given = self._user.preprocess(row)
            tensors = [torch.from_numpy(np.ascontiguousarray(given[name])) for name in self.inputs]
            with torch.inference_mode():
                try:
                    results = module(*tensors)
                except RuntimeError:  # doubles, as numpy makes them, into fp32 weights
                    results = module(*(t.float() if t.dtype == torch.float64 else t for t in tensors))
            several = results if isinstance(results, tuple | list) else (results,)
            outputs = {name: tensor.numpy() for name, tensor in zip(self.outputs, several, strict=True)}
            finished = self.postprocess(outputs).to_pylist()
            if len(finished) != 1:
                raise ValueError(f"postprocess gives {len(finished)} rows for one")
            return {**{name: values.ravel().tolist() for name, values in outputs.items()}, **finished[0]}

        return answer

    def _arrays(self, table: pa.Table) -> Arrays:
        given = self._user.preprocess(table)
        arrays = {name: _fp32(np.ascontiguousarray(given[name])) for name in self.inputs}
        for name, values in arrays.items():
            if len(values) != table.num_rows:
                raise LoadError(
                    f"preprocess of {self._spec} gives {len(values)} entries of {name!r} for {table.num_rows} rows; "
                    "give one for each row, in order"
                )
        return arrays


def _fp32(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return doubles, which numpy makes of Python's numbers, in the precision that the module runs in."""
    return values.astype(np.float32) if values.dtype == np.float64 else values


family = FamilyKind(
    settings=Settings,
    fragment_rows=1024,
    make=make,
    any_file=True,
)
