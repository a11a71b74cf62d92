"""Changes to an output while a job fills it, at chosen calls of the model, and what an outsider then reads there."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

Act = Callable[[], None]


class Calls:
    """Counts the model's calls while fragments are scored (not those of proving), and acts before chosen ones."""

    def __init__(self) -> None:
        self.count = 0
        self.acts: dict[int, Act] = {}

    def at(self, call: int, act: Act) -> None:
        self.acts[call] = act

    def called(self) -> None:
        self.count += 1
        if act := self.acts.pop(self.count, None):
            act()


def proves_itself() -> bool:
    """Tell whether a replica is answering its canaries: the thread that loads does."""
    return threading.current_thread().name.startswith("optinfer-load")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, without_ray: None) -> Calls:
    """Return what counts the calls of the fake session in this process, from the first fragment on."""
    from optinfer.backends.fake import FakeSession
    from optinfer.commands import run
    from optinfer.execution.in_process import InProcess
    from optinfer.execution.placement import Node

    counted, scoring = Calls(), [False]
    answer = FakeSession.__call__

    def counting(self: FakeSession, inputs: Any) -> Any:
        if scoring[0] and not proves_itself():
            counted.called()
        return answer(self, inputs)

    class Scoring(InProcess):
        def stream(self, *arguments: Any) -> Iterator[Any]:  # type: ignore[override]
            scoring[0] = True
            try:
                yield from super().stream(*arguments)
            finally:
                scoring[0] = False

    monkeypatch.setattr(FakeSession, "__call__", counting)
    monkeypatch.setattr(run, "OnRay", lambda address: Scoring([Node(cpus=1)]))
    return counted


class Place:
    """A folder as anybody with access to it sees it: local, or a bucket."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.fs, self.root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, skip_instance_cache=True)

    def names(self, under: str = "") -> list[str]:
        """Return the files directly in the folder."""
        at = f"{self.root}/{under}".rstrip("/")
        found = self.fs.ls(at, detail=True) if self.fs.exists(at) else []
        return sorted(
            f["name"].rpartition("/")[2] for f in found if f["type"] == "file" and not f["name"].endswith("/")
        )

    def __contains__(self, name: str) -> bool:
        return bool(self.fs.exists(f"{self.root}/{name}"))

    def parts(self) -> list[str]:
        return [name for name in self.names() if name.startswith("part-")]

    def read(self, name: str) -> bytes:
        data: bytes = self.fs.cat_file(f"{self.root}/{name}")
        return data

    def write(self, name: str, data: bytes) -> None:
        path = f"{self.root}/{name}"
        if "file" in self.fs.protocol:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.fs.pipe_file(path, data)

    def unlink(self, name: str) -> None:
        self.fs.rm_file(f"{self.root}/{name}")

    def cut(self, name: str, left: int = 100) -> None:
        self.write(name, self.read(name)[:left])

    def remove_all(self, under: str = "") -> None:
        path = f"{self.root}/{under}".rstrip("/")
        if "file" in self.fs.protocol:
            shutil.rmtree(path, ignore_errors=True)
        elif self.fs.exists(path):
            self.fs.rm(path, recursive=True)

    def table(self) -> pa.Table:
        """Return the rows as pyarrow reads the folder."""
        return pads.dataset(self.root, filesystem=self.fs, format="parquet").to_table()


def foreign_parquet() -> bytes:
    """Return a Parquet file of somebody else's, with the columns of an output."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": ["stranger"], "embedding": [[0.5] * 384]}), sink)
    return sink.getvalue().to_pybytes()
