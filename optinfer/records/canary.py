"""Rows with the answers that a certified variant gave to them, and what it answered on: a replica has to match both.

All of it is plain values: it is kept in a certificate's file, and travels to every replica with its settings.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.records.record import Record

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Ground(Record):
    """What a variant was certified on.

    Attributes:
        cpu_features: instruction sets, as the kernel names them.
        runtime: package -> version of what executes it.
        gpu: name and driver; empty on a CPU.
    """

    cpu_features: tuple[str, ...]
    runtime: Mapping[str, str]
    gpu: str = ""


@dataclass(frozen=True, kw_only=True)
class Canaries(Record):
    """A few rows of a job's sample, each answered alone.

    Attributes:
        kinds: what each row is: `ordinary`, `longest`, `outlier`.
        rows: a table, a column per role, as an Arrow stream; `answers` to them as an npz file; both in base64.
        worth: output -> what a difference in it counts.
        tolerance: how far a number may differ, after that.
        precisions: all that the variant computes in.
        files: what was loaded: file -> its SHA-256.

    Rows, answers and worth are empty in what is said of a run.
    """

    kinds: tuple[str, ...]
    rows: str = ""
    answers: str = ""
    worth: Mapping[str, float] = field(default_factory=dict)
    tolerance: float
    precisions: tuple[str, ...]
    files: Mapping[str, str]
    ground: Ground

    @property
    def table(self) -> pa.Table:
        return pa.ipc.open_stream(base64.b64decode(self.rows)).read_all()

    @property
    def outputs(self) -> Arrays:
        """The answers, rows first: of a long one the numbers at `places`."""
        with np.load(io.BytesIO(base64.b64decode(self.answers)), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    @property
    def summary(self) -> dict[str, Any]:
        """Everything but the job's own rows and their answers, which are nobody's who reads of a run."""
        kept = self.as_dict()
        return {name: kept[name] for name in ("kinds", "tolerance", "precisions", "files", "ground")}

    def require_whole(self) -> None:
        """Refuse what a damaged file held.

        Raises:
            ValueError: rows and answers do not belong together.
        """
        if not self.table.num_rows == len(self.kinds) == min(map(len, self.outputs.values()), default=0):
            raise ValueError("rows and answers do not belong together")


def packed_rows(table: pa.Table) -> str:
    """Return a table as `Canaries.rows` has it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return base64.b64encode(sink.getvalue()).decode()


def packed_answers(outputs: Arrays) -> str:
    """Return outputs as `Canaries.answers` has them."""
    content = io.BytesIO()
    texts: Any = {name: values.astype(str) if values.dtype == object else values for name, values in outputs.items()}
    np.savez(content, **texts)
    return base64.b64encode(content.getvalue()).decode()


def places(size: int, most: int = 4096) -> np.ndarray[Any, Any]:
    """Return which numbers of an answer of `size` are kept: all, or so many from all over it."""
    return np.linspace(0, size - 1, min(size, most)).astype(np.int64)
