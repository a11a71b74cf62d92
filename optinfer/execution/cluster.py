"""Ray, started here or joined: one that runs is used as it is and left running, one started here ends with the job."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator

from optinfer.errors import OptinferError
from optinfer.execution.placement import Node

# Only descriptions and receipts pass through the object store; rows never do.
_OBJECT_STORE_BYTES = 256 * 2**20
_CONNECT_SECONDS = 5.0


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to Ray for a `with` block.

    Args:
        address: None uses `RAY_ADDRESS` or starts Ray here; `local` always starts it; else a cluster's address.

    Raises:
        OptinferError: the cluster cannot be reached.
    """
    import ray

    if address not in (None, "auto", "local"):
        _require_listening(str(address))
        if ray.is_initialized():
            raise OptinferError(
                f"this process is connected to Ray already, it cannot also use {address}; "
                "leave the address out to use the connection it has, or call ray.shutdown() first"
            )
    if ray.is_initialized():
        yield
        return
    where = None if address == "local" else address or os.environ.get("RAY_ADDRESS")
    if where not in (None, "auto", address):
        _require_listening(str(where))
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        with _own_sigterm():
            if where is None:
                ray.init(address="local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
            else:
                ray.init(address=where, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise OptinferError(
            f"cannot connect to Ray at {where or 'local'}: {error}; check --address, or leave it out to run here"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Put the process's own SIGTERM handler back: Ray's would end a stopped job without closing its record."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


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
    from ray._private.state import available_resources_per_node

    return [
        Node(cpus=free.get("CPU", 0.0), gpus=free.get("GPU", 0.0)) for free in available_resources_per_node().values()
    ]
