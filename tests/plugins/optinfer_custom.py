"""A job's own class, as a user would write it: the lengths of texts through a small torch module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa


class Lengths:
    roles = ("text",)
    inputs = ("lengths",)
    outputs = ("scores",)
    schema = pa.schema([("first", pa.float32())])

    def load(self, path: Path) -> Any:
        import torch

        module = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        drawn = torch.Generator().manual_seed(0)  # replicas load in threads, which share torch's own
        with torch.no_grad():
            for weights in module.parameters():
                weights.uniform_(-0.5, 0.5, generator=drawn)
        return module

    def preprocess(self, table: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
        rows = [[len(text), text.count(" ")] for text in table.column("text").to_pylist()]
        return {"lengths": np.array(rows, dtype=np.float32) / 100}

    def postprocess(self, outputs: dict[str, np.ndarray[Any, Any]]) -> pa.Table:
        return pa.table({"first": outputs["scores"][:, 0]})


class Deadly(Lengths):
    """Some texts raise in the model, and one of exactly `deadly` characters takes the process with it."""

    def __init__(self, deadly: int, raising: int) -> None:
        self.deadly, self.raising = deadly, raising

    def forward(self, module: Any, lengths: Any) -> Any:
        import os
        import signal

        if (lengths[:, 0] == np.float32(self.deadly) / np.float32(100)).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (lengths[:, 0] == np.float32(self.raising) / np.float32(100)).any():
            raise ValueError(f"no text of {self.raising} characters")
        return module(lengths)


class Poison(Lengths):
    """A text's length says what becomes of it; those named here end the process in ways of their own, or never do.

    Args:
        loads: a file that grows by a byte with each process that loads it.
    """

    SEGFAULT, KILL, HANG, EXIT, LEAVE, RAISE, HANG_BEFORE = range(900, 907)

    def __init__(self, loads: str) -> None:
        self.loads = loads

    def load(self, path: Path) -> Any:
        with open(self.loads, "ab") as file:
            file.write(b".")
        return super().load(path)

    def preprocess(self, table: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
        made = super().preprocess(table)
        if self.HANG_BEFORE in self._kinds(made["lengths"]):
            self._hang()
        return made

    def forward(self, module: Any, lengths: Any) -> Any:
        import ctypes
        import os
        import signal
        import sys

        kinds = self._kinds(lengths.numpy())
        if self.SEGFAULT in kinds:
            ctypes.string_at(0)
        if self.KILL in kinds:  # what the kernel sends where memory is short
            os.kill(os.getpid(), signal.SIGKILL)
        if self.HANG in kinds:
            self._hang()
        if self.EXIT in kinds:
            sys.exit(3)
        if self.LEAVE in kinds:
            os._exit(4)
        if self.RAISE in kinds:
            raise ValueError("no such text")
        return module(lengths)

    def _kinds(self, lengths: np.ndarray[Any, Any]) -> set[int]:
        return set(np.rint(lengths[:, 0] * 100).astype(int).tolist())

    def _hang(self) -> None:
        """Sleep in native code that keeps the GIL: no other thread of Python's comes to its turn."""
        import ctypes

        ctypes.PyDLL(None).sleep(10**6)


class Mended(Lengths):
    """Texts of 500 characters and more raise as long as a file is there; just one length, where that names one."""

    def __init__(self, broken: str) -> None:
        self.broken = Path(broken)

    def forward(self, module: Any, lengths: Any) -> Any:
        if self.broken.exists():
            lengths_here = set(np.rint(lengths.numpy()[:, 0] * 100).astype(int).tolist())
            only = self.broken.read_text()
            if any(length == int(only) if only else length >= 500 for length in lengths_here):
                raise ValueError("not yet")
        return module(lengths)


class Hangs(Lengths):
    """Never comes to the end of loading; the file `begun` tells that it began."""

    def __init__(self, begun: str) -> None:
        self.begun = begun

    def load(self, path: Path) -> Any:
        import threading

        Path(self.begun).touch()
        threading.Event().wait()


class EndsAtLoad(Lengths):
    """Takes its process with it when it is loaded."""

    def load(self, path: Path) -> Any:
        import os

        os._exit(5)


class Short(Lengths):
    """Its postprocess loses a row."""

    def postprocess(self, outputs: dict[str, np.ndarray[Any, Any]]) -> pa.Table:
        return super().postprocess(outputs).slice(1)


class Growing(Lengths):
    """Numbers texts in the order in which it meets them, which is another one in each replica."""

    def __init__(self) -> None:
        self.met: dict[str, int] = {}

    def preprocess(self, table: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
        rows = [[self.met.setdefault(text, len(self.met)), 0] for text in table.column("text").to_pylist()]
        return {"lengths": np.array(rows, dtype=np.float32)}


class Doubles(Lengths):
    """Its numbers are doubles, as numpy makes them."""

    def preprocess(self, table: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
        return {name: values.astype(np.float64) for name, values in super().preprocess(table).items()}


class Tiny(Lengths):
    """Its answers are small, and in the order of the texts instead of the rows."""

    def preprocess(self, table: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
        return super().preprocess(table.sort_by("text"))

    def forward(self, module: Any, lengths: Any) -> Any:
        return module(lengths) * 1e-5
