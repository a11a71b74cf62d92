"""Can Ray be had? What can be told without asking Ray, which takes minutes to give up and names causes of its own."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import psutil

from optinfer.errors import ConfigError, OptinferError

ADDRESS, VARIABLE = "--address", "RAY_ADDRESS"
_CONNECT_SECONDS = 5.0
# What the kernel takes as a socket's name, without the byte that ends it.
_LONGEST_SOCKET = 107
_SESSION = "ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
# An HTTP/2 client's first bytes, and a frame of settings without any.
_SETTINGS = 4
_HTTP2_BEGINS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0))
# Ray itself looks for one of these where the address is `auto`.
_NODE_PROCESS = "raylet"
_FORMS = "HOST:6379 or auto"
_CLIENT = "ray://"


def chosen(given: str | None) -> tuple[str | None, str]:
    """Return the cluster to join, None to start Ray here; and what says so: the caller, or the environment."""
    address, variable = (given or "").strip(), os.environ.get(VARIABLE, "").strip()
    if address in ("", "auto") and variable not in ("", "auto"):
        return (None if variable == "local" else variable), VARIABLE
    if address == "" and variable == "auto":
        return "auto", VARIABLE
    return (None if address in ("", "local") else address), ADDRESS


def require_node(where: str | None, named_by: str) -> None:
    """Refuse the address of a Ray client's server: whoever connects there is on no node of the cluster.

    A driver looks at the cluster's nodes, and its own one is where others fetch the model and what was made of it.

    Args:
        where, named_by: what `chosen` returned.

    Raises:
        ConfigError: it is one; says how else the cluster is reached.
    """
    if where is None or not where.startswith(_CLIENT):
        return
    host = where.removeprefix(_CLIENT).rstrip("/").rpartition(":")[0] or "HOST"
    raise ConfigError(
        f"{named_by} {where}: Ray's client is on no node of the cluster, and nodes could not fetch the model from it; "
        f"send the job with `optinfer submit JOB.yaml --address http://{host}:8265`, or start the command on a node of "
        "the cluster, with --address auto"
    )


def what_to_check(where: str | None, named_by: str) -> str:
    """Say what to do about a Ray that did not answer."""
    if where is None:
        return (
            f"check that memory is free, that {_temp_folder()} and /dev/shm have room (df -h) and that processes and "
            f"ports may be opened (ulimit -a); Ray's own logs are in {_temp_folder()}/ray/session_latest/logs"
        )
    if where == "auto":
        return f"start one with `ray start --head`, or leave {named_by} out to run here"
    return f"check {named_by} ({_FORMS}), or leave it out to run here"


def running() -> list[str]:
    """Name the programs that run on this machine."""
    return [process.info["name"] for process in psutil.process_iter(["name"])]


def require_reachable(
    where: str, named_by: str, seconds: float = _CONNECT_SECONDS, programs: Callable[[], Collection[str]] = running
) -> None:
    """Refuse an address nobody listens on at once: Ray would ask it for minutes.

    Args:
        where, named_by: what `chosen` returned.
        seconds: to wait for an answer.
        programs: names those that run on this machine.

    Raises:
        OptinferError: it is no address, or nobody answers there.
    """
    if where == "auto":
        if _NODE_PROCESS not in programs():
            raise OptinferError(f"no Ray runs on this machine; {what_to_check(where, named_by)}")
        return
    scheme, has_scheme, rest = where.partition("://")
    if has_scheme and scheme != "ray":
        jobs = ": that is where jobs are submitted and the dashboard lives" if scheme in ("http", "https") else ""
        raise OptinferError(f"cannot connect to Ray at {where}{jobs}; {what_to_check(where, named_by)}")
    host, _, port = (rest if has_scheme else where).rstrip("/").rpartition(":")
    try:
        if not host:
            raise ValueError("there is no HOST:PORT in it")
        with socket.create_connection((host.strip("[]"), int(port)), seconds) as connection:
            encrypted = os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true")
            if not encrypted and not _speaks_grpc(connection):
                raise ValueError("something else than Ray listens there")
    except (OSError, ValueError, OverflowError) as error:
        raise OptinferError(f"cannot connect to Ray at {where}: {error}; {what_to_check(where, named_by)}") from error


def _speaks_grpc(connection: socket.socket) -> bool:
    """Tell whether Ray may be at the other end: gRPC is HTTP/2, and its server begins with settings (RFC 9113, 3.4)."""
    connection.sendall(_HTTP2_BEGINS)
    frame = connection.recv(9)
    return len(frame) > 3 and frame[3] == _SETTINGS


def require_startable() -> None:
    """Refuse a temporary folder in which Ray cannot start.

    Raises:
        OptinferError: it cannot be written to, or sockets in it would have names that the kernel refuses.
    """
    folder, variable = _temp_folder(), "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    longest = len(os.fsencode(folder / _SESSION.format(pid=os.getpid())))
    if longest > _LONGEST_SOCKET:
        allowed = _LONGEST_SOCKET - longest + len(os.fsencode(folder))
        raise OptinferError(
            f"Ray cannot start here: {variable}={folder} is too long for the names of its sockets; set RAY_TMPDIR to a "
            f"folder whose path has {allowed} characters at most, for example RAY_TMPDIR=/tmp"
        )
    there = next((path for path in (folder / "ray", folder, *folder.parents) if path.exists()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=there, buffering=0) as probe:
            probe.write(bytes(2**16))
    except OSError as error:
        raise OptinferError(
            f"Ray cannot start here: its temporary folder {folder / 'ray'} cannot be written to "
            f"({error.strerror or error}); set RAY_TMPDIR (or TMPDIR) to a folder with room"
        ) from error


def _temp_folder() -> Path:
    """Return where Ray puts its sockets and logs."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp").absolute()
