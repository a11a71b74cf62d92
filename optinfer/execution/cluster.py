"""Ray, started here or joined: one that runs is used as it is and left running, one started here ends with the job."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator

from optinfer.errors import OptinferError
from optinfer.execution.placement import Node

# Only descriptions and receipts pass through the object store; rows never do.
_OBJECT_STORE_BYTES = 256 * 2**20
_CONNECT_SECONDS = 5.0
_ACCELERATOR = "accelerator_type:"
_BUILT_IN = ("CPU", "GPU", "memory", "object_store_memory")


class Connection:
    """Ray for one job; closed when its `with` block ends.

    Starting Ray takes seconds of waiting, so it goes on in a thread while the driver does other things, and so does its
    end: `open`, then `ready`, then `release` as soon as nothing needs it. The thread lives as long as the connection:
    Ray's processes are told to die with the thread that started them.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._thread: threading.Thread | None = None
        self._answered, self._unneeded = threading.Event(), threading.Event()
        self._error: OptinferError | None = None
        self._local = False
        self._free: list[Node] | None = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._join()

    @property
    def growing(self) -> bool:
        """Tell whether nodes may join: not where Ray was started here for this job alone."""
        return not self._local

    def open(self) -> None:
        """Begin to connect, unless this did; an address that nobody listens on is refused at once."""
        if self._thread is not None and not self._unneeded.is_set():
            return
        self._join()
        self._error = None
        if self._address not in (None, "auto", "local"):
            _require_listening(str(self._address))
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            if self._address not in (None, "auto", "local"):
                raise OptinferError(
                    f"this process is connected to Ray already, it cannot also use {self._address}; "
                    "leave the address out to use the connection it has, or call ray.shutdown() first"
                )
            return
        where = None if self._address == "local" else self._address or os.environ.get("RAY_ADDRESS")
        if where not in (None, "auto", self._address):
            _require_listening(str(where))
        self._local = where is None
        self._answered, self._unneeded = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._live, args=(where,), name="optinfer-ray", daemon=True)
        self._thread.start()

    def ready(self) -> None:
        """Wait until Ray is there.

        Raises:
            OptinferError: the cluster cannot be reached.
        """
        if self._thread is not None:
            self._answered.wait()
        if self._error:
            raise self._error

    def free(self) -> list[Node]:
        """Return what was free on each node when first asked: what this job's replicas took since is its own."""
        if self._free is None:
            self._free = free_nodes()
        return self._free

    def release(self) -> None:
        """Begin to end what was started."""
        self._free = None
        self._unneeded.set()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _live(self, where: str | None) -> None:
        import ray

        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        try:
            if where is None:
                ray.init(address="local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
            else:
                ray.init(address=where, **quiet)
        except Exception as error:
            self._error = OptinferError(
                f"cannot connect to Ray at {where or 'local'}: {error}; check --address, or leave it out to run here"
            )
            self._error.__cause__ = error
            return
        finally:
            self._answered.set()
        self._unneeded.wait()
        ray.shutdown()


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to Ray for a `with` block.

    Args:
        address: None uses `RAY_ADDRESS` or starts Ray here; `local` always starts it; else a cluster's address.

    Raises:
        OptinferError: the cluster cannot be reached.
    """
    with Connection(address) as connection:
        connection.open()
        connection.ready()
        yield


def _require_listening(address: str) -> None:
    """Refuse an address nobody listens on at once: Ray would ask it for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise OptinferError(
            f"cannot connect to Ray at {address}: {error}; check --address (HOST:PORT or ray://HOST:PORT), "
            "or leave it out to run here"
        ) from error


def free_nodes() -> list[Node]:
    """Return what is free on each live node now; other jobs' shares are left out."""
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    totals = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    return [_node(name, free[name], totals[name]) for name in sorted(totals) if name in free]


def _node(name: str, free: dict[str, float], total: dict[str, float]) -> Node:
    kinds = [name.removeprefix(_ACCELERATOR) for name in total if name.startswith(_ACCELERATOR)]
    return Node(
        cpus=free.get("CPU", 0.0),
        gpus=free.get("GPU", 0.0),
        memory_mb=free.get("memory", 0.0) / 1e6,
        accelerator=kinds[0] if kinds else "",
        resources={kind: amount for kind, amount in free.items() if kind not in _BUILT_IN and ":" not in kind},
        name=name,
    )
