"""A store with S3's semantics, and runs that take one request of it at a time, in the order of a history.

Every request of a run waits until the history says that it is its turn, and how it goes: as asked, refused, done
without an answer, or the last of a process that dies. What a pool of threads asks at a time is one step.
"""

from __future__ import annotations

import errno
import hashlib
import io
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import fsspec
from fsspec.spec import AbstractFileSystem

_PATIENCE = 60.0  # seconds in which a run asks for something, or ends
_READS = ("get", "list", "exists")
_LEASES = ("_optinfer/lease/", "_optinfer/lock.json")
# An error that no run waits for: what asking again makes of others is tried in tests/data/test_storage.py.
_FINAL = errno.ENOSYS
# What only the holder of an output may write.
_ENDS = ("_SUCCESS", "_manifest.json")


class Crash(BaseException):
    """The process is gone."""


class World:
    """What lies in the store, what time it is, and what happened that must not.

    Attributes:
        conditional: the store knows `If-None-Match`.
        claims: who took the output, in order.
        changed: since somebody looked, by more than what a run keeps for itself.
    """

    def __init__(self, conditional: bool = True) -> None:
        self.conditional = conditional
        self.objects: dict[str, bytes] = {}
        self.runs: dict[str, Run] = {}
        self.now = self.wall = 0.0
        self.wrong: list[str] = []
        self.claims: list[str] = []
        self.changed = False

    def put(self, who: str, path: str, data: bytes, new: bool) -> dict[str, str]:
        if new and self.conditional and path in self.objects:
            raise FileExistsError(path)
        if new and "/_optinfer/lease/" in path:
            self.claims.append(who)
        self._require_holder(who, path)
        self.objects[path] = data
        self.changed |= "/_optinfer/" not in path
        return {"ETag": etag(data)}

    def remove(self, who: str, path: str) -> None:
        for name in [name for name in self.objects if name == path or name.startswith(f"{path}/")]:
            if "/part-" in name and "/_optinfer/" not in name:  # marks of begun parts cost an attempt, no row
                self._require_holder(who, name, always=True)
            del self.objects[name]
            self.changed |= "/_optinfer/" not in name

    def _require_holder(self, who: str, path: str, always: bool = False) -> None:
        holder = self.claims[-1] if self.claims else None
        if (always or path.endswith(_ENDS)) and who != holder:
            self.wrong.append(f"{who} wrote or removed {path}, and {holder} took the output")


class Run:
    """One process: its main thread takes a step when it is told to."""

    def __init__(self, world: World, name: str, work: Callable[[Run], str]) -> None:
        self.world, self.name, self.crashed, self.end = world, name, False, ""
        self.error: BaseException | None = None
        self.last, self.phase = "", ""
        self._fault = ""
        self._turn, self._parked, self._pool = threading.Semaphore(0), threading.Semaphore(0), threading.Lock()
        self._together: str | None = None
        self._thread = threading.Thread(target=self._work, args=(work,), daemon=True)
        world.runs[name] = self
        self._thread.start()
        self._wait()

    def _work(self, work: Callable[[Run], str]) -> None:
        try:
            self.end = work(self)
        except Crash:
            self.end = "crashed"
        except BaseException as error:
            self.end, self.error = "broken", error
        self._parked.release()

    def _wait(self) -> None:
        assert self._parked.acquire(timeout=_PATIENCE), f"{self.name} neither asks nor ends, after {self.last}"

    def step(self, fault: str = "") -> None:
        """Let it do what it asks for; from the last look at who holds the output up to the write it allows.

        A process that is stopped for a minute right between these two is beyond a store that has no fences.
        """
        looked = False
        while not self.end:
            self._fault, fault = fault, ""
            self._turn.release()
            self._wait()
            what, _, name = self.last.partition(" ")
            looked |= name.startswith(_LEASES)
            if not looked or what not in _READS:
                return

    def request(self, what: str, path: str, act: Callable[[], Any]) -> Any:
        """Do what a thread of this process asks for, when it is its turn."""
        if self.crashed:
            raise Crash
        if threading.current_thread() is self._thread:
            self._together = None
            fault = self._next()
        else:
            with self._pool:
                if self._together is None:
                    self._together = self._next()
                fault = self._together
        self.last = f"{what} {path.removeprefix('out/')}"
        return self._faulty(fault, act)

    def _next(self) -> str:
        self._parked.release()
        self._turn.acquire()
        return self._fault

    def _faulty(self, fault: str, act: Callable[[], Any]) -> Any:
        self.crashed = fault.startswith("dies")
        if fault == "dies":
            raise Crash
        if fault == "refused":
            raise OSError(_FINAL, "refused")
        done = act()
        if fault == "dies after":
            raise Crash
        if fault == "no answer":
            raise OSError(_FINAL, "no answer")
        return act() if fault == "asked twice" else done

    def wait(self, seconds: float) -> None:
        def pass_by() -> None:
            self.world.now += seconds

        self.request("wait", "", pass_by)


class Histories(AbstractFileSystem):  # type: ignore[misc]
    """The store as fsspec has it: `histories://RUN/out`, of which every run has the same `out`."""

    protocol = ("histories", "s3")  # listed as S3 is, by pages
    cachable = False
    req_kw: ClassVar[dict[str, str]] = {}
    world: ClassVar[World]

    def __init__(self, run: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.run = run

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        path = path.rstrip("/")
        return path.removeprefix("histories://").partition("/")[2] if "://" in path else path

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        return {"run": path.removeprefix("histories://").partition("/")[0]}

    def _ask(self, what: str, path: str, act: Callable[[World], Any]) -> Any:
        world = Histories.world
        return world.runs[self.run].request(what, path, lambda: act(world))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> Any:
        return self._ask("put", path, lambda world: world.put(self.run, path, value, mode == "create"))

    def cat_file(self, path: str, *_: Any, **__: Any) -> bytes:
        def read(world: World) -> bytes:
            if path not in world.objects:
                raise FileNotFoundError(path)
            return world.objects[path]

        data: bytes = self._ask("get", path, read)
        return data

    def open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        return io.BytesIO(self.cat_file(path))

    def exists(self, path: str, **_: Any) -> bool:
        return bool(self._ask("exists", path, lambda w: any(f"{name}/".startswith(f"{path}/") for name in w.objects)))

    def rm(self, path: str, *_: Any, **__: Any) -> None:
        self._ask("remove", path, lambda world: world.remove(self.run, path))

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def call_s3(self, method: str, **asked: Any) -> dict[str, Any]:
        assert method == "list_objects_v2"
        page: dict[str, Any] = self._ask("list", f"{asked['Bucket']}/{asked['Prefix']}", lambda w: _listed(w, asked))
        return page


def _listed(world: World, asked: dict[str, Any]) -> dict[str, Any]:
    found, below = [], set()
    for path, data in sorted(world.objects.items()):
        bucket, _, key = path.partition("/")
        if bucket == asked["Bucket"] and key.startswith(asked["Prefix"]):
            folder, inside, _ = key.removeprefix(asked["Prefix"]).partition("/")
            if inside:
                below.add(asked["Prefix"] + folder + "/")
            else:
                found.append({"Key": key, "Size": len(data), "ETag": etag(data)})
    return {"Contents": found, "CommonPrefixes": [{"Prefix": one} for one in sorted(below)], "IsTruncated": False}


def etag(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


fsspec.register_implementation("histories", Histories, clobber=True)
