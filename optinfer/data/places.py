"""Where a job reads and where it writes: two places that must not be one, nor one inside the other.

Paths are compared as the system resolves them, links and `..` included.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePath

from optinfer.data.listing import SUFFIXES
from optinfer.data.storage import absolute, is_local
from optinfer.errors import ConfigError, redact

_WILD = "*?["
_PART = "part-000000.parquet"


def require_apart(source: str, sink: str) -> None:
    """Refuse a sink that is no place, and one whose files the source takes in, or the other way round.

    Raises:
        ConfigError: says which, and what to choose.
    """
    _require_place("source.path", source)
    require_shared("sink.path", sink)
    read, written = _resolved(source), _resolved(sink)
    if written == read:
        raise ConfigError(f"sink.path {redact(sink)} is source.path itself; choose a folder beside it")
    if _takes_in(read, written):
        raise ConfigError(
            f"sink.path {redact(sink)} lies inside source.path: the next run would read its own output; "
            "choose a folder beside it"
        )
    if _inside(_root(read), written) and not _is_file_in(read, written):
        raise ConfigError(
            f"source.path {redact(source)} lies inside sink.path: whoever reads the output would read the source, too; "
            "choose a folder beside it"
        )


def require_shared(name: str, url: str) -> None:
    """Refuse what is no place, and one that other processes do not reach."""
    _require_place(name, url)
    if url.partition("://")[0] == "memory":
        raise ConfigError(
            f"{name} {redact(url)} is the memory of one process, and replicas are others; give a folder, or a URL "
            "of a store that they all reach"
        )


def _require_place(name: str, url: str) -> None:
    protocol, has_protocol, rest = url.partition("://")
    if has_protocol and protocol != "file" and not rest.strip("/"):
        raise ConfigError(
            f"{name} {redact(url)} names no bucket or host; write it as {protocol or 's3'}://BUCKET/FOLDER"
        )


def _resolved(url: str) -> str:
    full = absolute(url)
    if not is_local(full):
        return full.rstrip("/")
    root = _root(full)
    return os.path.realpath(root) + full[len(root) :].rstrip("/")


def _root(path: str) -> str:
    """Return the part of a path above its first wildcard."""
    first = min((path.index(c) for c in _WILD if c in path), default=None)
    return path if first is None else path[:first].rpartition("/")[0]


def _takes_in(source: str, sink: str) -> bool:
    if _root(source) == source:
        return _inside(sink, source)
    from fsspec.utils import glob_translate

    return re.match(glob_translate(source), f"{sink}/{_PART}") is not None


def _inside(inner: str, outer: str) -> bool:
    return inner.startswith(f"{outer.rstrip('/')}/")


def _is_file_in(source: str, sink: str) -> bool:
    """Tell a file that lies in the sink itself: that folder is refused for what it holds, with exit code 5."""
    path = PurePath(source)
    return path.suffix.lower() in SUFFIXES and str(path.parent) == sink
