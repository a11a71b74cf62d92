"""The one Ray that a process has: what a connection asks of it, and nothing else of Ray's."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Protocol

import psutil

from optinfer.execution.placement import Node

# Only descriptions and receipts pass through the object store; rows never do.
_OBJECT_STORE_BYTES = 256 * 2**20
_ACCELERATOR = "accelerator_type:"
_BUILT_IN = ("CPU", "GPU", "memory", "object_store_memory")
# What Ray's core worker ends its own process without.
_VITAL = ("raylet", "gcs_server")
# What Ray Data calls the thread of a dataset that is being read, and how long it may take to end.
_RAY_DATA, _RAY_DATA_SECONDS = "StreamingExecutor-", 1.0


class RayProcess(Protocol):
    """Ray in this process."""

    def is_initialized(self) -> bool:
        """Tell whether this process has a Ray."""

    def init(self, where: str | None) -> None:
        """Join the cluster at an address; None starts Ray here.

        Raises:
            BaseException: whatever Ray raises, which is not only `Exception`.
        """

    def shutdown(self) -> None:
        """Leave the cluster, or end what was started here."""

    def free_nodes(self) -> list[Node]:
        """Return what is free on each live node now; other jobs' shares are left out."""

    def gone(self) -> str:
        """Name a process of Ray's on this machine that this one cannot go on without and that has ended; "" if none.

        Also while `init` starts them.
        """

    def abandon(self) -> None:
        """Leave a Ray that is gone: end what is left of what was started here, and ask it nothing any more."""


class ThisProcess:
    """The real one."""

    def __init__(self) -> None:
        self._vital: dict[str, psutil.Process] = {}
        self._starts_beside: frozenset[int] | None = None

    def is_initialized(self) -> bool:
        """Tell it without importing Ray: another thread may be half way through that."""
        is_initialized = getattr(sys.modules.get("ray"), "is_initialized", None)
        return is_initialized is not None and bool(is_initialized())

    def init(self, where: str | None) -> None:
        import ray

        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        if where is None:
            self._starts_beside = frozenset(process.pid for process in psutil.Process().children())
            try:
                with _on_loopback():
                    ray.init(address="local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
            finally:
                self._starts_beside = None
        else:
            ray.init(address=where, **quiet)
        self._vital = _vital()

    def shutdown(self) -> None:
        """End Ray, or leave the cluster.

        Whoever asks Ray's core worker while it goes ends this process, in C++ and without a word. Freeing a reference
        asks it: Ray Data keeps some in cycles, which a garbage collection in any thread may free. So its threads come
        to their end first, and nothing is collected meanwhile.
        """
        import ray

        self._vital = {}
        for thread in threading.enumerate():
            if thread.name.startswith(_RAY_DATA):
                thread.join(_RAY_DATA_SECONDS)
        collecting = gc.isenabled()
        gc.disable()
        try:
            ray.shutdown()
        finally:
            if collecting:
                gc.enable()

    def free_nodes(self) -> list[Node]:
        import ray
        from ray._private.state import available_resources_per_node

        free = available_resources_per_node()
        totals = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        return [node_named(name, free[name], totals[name]) for name in sorted(totals) if name in free]

    def gone(self) -> str:
        if (before := self._starts_beside) is not None:
            self._vital.update(_children(before))
        return next((name for name, process in self._vital.items() if not _lives(process)), "")

    def abandon(self) -> None:
        import ray
        from ray._private import worker

        started = worker._global_node.all_processes.values() if worker._global_node else []
        pids = {one.process.pid for kind in started for one in kind} | {one.pid for one in self._vital.values()}
        self._vital = {}
        atexit.unregister(ray.shutdown)  # which would wait for it a minute, and then end this process
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
                    process.kill()


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let what Ray starts in a `with` block listen on 127.0.0.1 alone, as it does on Windows and macOS.

    Else its servers listen on every interface of the machine. Ray turns `_node_ip_address="127.0.0.1"` into the
    machine's own address; this is what it asks when it does.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


PROCESS = ThisProcess()


def _children(before: frozenset[int]) -> dict[str, psutil.Process]:
    """Return these two among the processes that this one has started, but for those of before."""
    found = {}
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid not in before and process.name() in _VITAL:
                found[process.name()] = process
    return found


def _vital() -> dict[str, psutil.Process]:
    """Return what Ray's core worker ends its own process without, where it is on this machine: the raylet and the GCS.

    A GCS on another machine is Ray's to miss, which takes it a minute.
    """
    from ray._private import worker

    node = worker.global_worker.node
    if node is None:  # whoever called us is a client of ray://
        return {}
    told = {"raylet": node.raylet_socket_name, "gcs_server": node.get_session_dir_path()}
    return {
        process.info["name"]: process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] in told and told[process.info["name"]] in " ".join(process.info["cmdline"] or ())
    }


def _lives(process: psutil.Process) -> bool:
    """Tell whether a process runs; one that its parent has not collected does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def node_named(name: str, free: dict[str, float], total: dict[str, float]) -> Node:
    """Return a node of Ray's: what is free of all that it has."""
    kinds = [name.removeprefix(_ACCELERATOR) for name in total if name.startswith(_ACCELERATOR)]
    return Node(
        cpus=free.get("CPU", 0.0),
        gpus=free.get("GPU", 0.0),
        memory_mb=free.get("memory", 0.0) / 1e6,
        accelerator=kinds[0] if kinds else "",
        resources={kind: amount for kind, amount in free.items() if kind not in _BUILT_IN and ":" not in kind},
        name=name,
    )
