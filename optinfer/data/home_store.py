"""What is kept outlives its machine where `$OPTINFER_HOME` is the URL of a store: what another lacks comes from there.

Work is done in a folder of this machine (system/home.py), the cache of the store. What is made is put there, what is
missed is fetched from there. Contents lie under their SHA-256, an entry says which contents a kept name has:

    kept/artifacts/KEY.json         {"model.onnx": {"size": ..., "sha256": ...}, ...}
    contents/SHA256
    runs/RUN/000000000000000.jsonl  a journal, in pieces

An entry is put after its contents, and only where there is none: of two who make the same, the first wins and the other
takes it. What came with another content is removed there, and made again. A store that fails is done without until the
process ends, which is said once: a cache that is away costs time, and no job. Without a store all of this is the
folder alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from optinfer.data.places import require_shared
from optinfer.data.storage import Folder
from optinfer.errors import StorageError, redact
from optinfer.system import home
from optinfer.system.contents import Listed, as_plain, from_plain, listed
from optinfer.system.outages import Waiting, is_ours_to_correct

T = TypeVar("T")

_log = logging.getLogger(__name__)
_KEPT, _CONTENTS, _RUNS = "kept", "contents", "runs"
_ENTRY = ".json"
# A night's job waits for its cache less long than for its table.
_WAITING = Waiting(seconds=30.0)
# What comes damaged is asked for once more: a byte may flip on its way, too.
_LOOKS = 2
# Stores that failed in this process, and are not asked again.
_away: set[str] = set()


def store() -> Folder | None:
    """Return the store, None where there is none, or it failed."""
    url = home.store()
    return None if url is None or url in _away else Folder(url, _WAITING)


def begin(require: Callable[[str, Waiting], None]) -> None:
    """Ask the store, if it failed before, again: what a person has to correct is refused, one that is away is not.

    Args:
        require: raises where a URL cannot be used, when it was asked for so long.

    Raises:
        ConfigError: it is no store that others reach.
        StorageError: keys, rights or the bucket are wrong.
    """
    if (url := home.store()) is None:
        return
    require_shared("OPTINFER_HOME", url)
    _away.discard(url)
    try:
        require(url, _WAITING)
    except StorageError as error:
        if is_ours_to_correct(error):
            raise StorageError(f"OPTINFER_HOME cannot be used: {error}") from error
        do_without(error)


def do_without(error: StorageError) -> None:
    """Ask the store no more in this process, and say so."""
    if (url := home.store()) and url not in _away:
        _away.add(url)
        _log.warning(
            "warning: the home %s is done without: %s. What lies in %s is used; what is made stays there alone",
            redact(url),
            error,
            home.home(),
        )


def read(path: Path, make: Callable[[Path], T | None]) -> T | None:
    """Return what `home.read` does of a kept file, which is fetched where this machine has none that is whole."""
    found = home.read(path, make)
    return home.read(path, make) if found is None and _bring_file(path) else found


def read_newest(path: Path, make: Callable[[Path], T | None]) -> T | None:
    """Return what `home.read` does of a file that is written again and again, as it was last, on whatever machine."""
    _bring_file(path)
    return home.read(path, make)


def put(path: Path, content: bytes, make: Callable[[Path], T | None]) -> None:
    """Keep a file; where the store has one, of which `make` makes something, that one is kept."""
    home.put(path, content)
    if _offer(path, *_one(path, content)):
        return
    if not (_bring_file(path) and home.read(path, make) is not None):
        replace(path, content)


def replace(path: Path, content: bytes) -> None:
    """Keep a file, in the place of the one before."""
    home.put(path, content)
    files, send = _one(path, content)

    def put(store: Folder) -> None:
        send(store, files[0])
        store.put(_entry(path), _told(files))

    _asked(put, None)


def names(folder: Path, pattern: str) -> set[str]:
    """Return the names of files kept in a folder that match a glob pattern, here and in the store."""

    def there(store: Folder) -> set[str]:
        kept = (name.removesuffix(_ENTRY) for name in store.names(under=f"{_KEPT}/{_name(folder)}"))
        return {name for name in kept if Path(name).match(pattern)}

    return {path.name for path in folder.glob(pattern)}.union(_asked(there, set[str]()))


def bring(folder: Path) -> bool:
    """Fetch a kept folder, whose caller holds its lock; return False where the store has none that is whole.

    Raises:
        OptinferError: the disk does not take it.
    """
    return _brought(folder, lambda store, files: home.bring(folder, files, partial(_pieces, store)))


def offer(folder: Path, made: Path) -> bool:
    """Put what was made, aside, for a kept folder; return False where the store has another one: `bring` that."""

    def send(store: Folder, file: Listed) -> None:
        store.send(f"{_CONTENTS}/{file.sha256}", made / file.name)

    return home.store() is None or _offer(folder, listed(made), send)


def journal(run_id: str) -> dict[str, Callable[[str, bytes], None]]:
    """Return where a run's journal is to be copied to, with what takes a piece of it; nothing without a store."""
    found = store()
    if found is None:
        return {}
    return {f"in {redact(found.url)}": lambda name, piece: found.put(f"{_RUNS}/{run_id}/{name}", piece)}


def runs() -> list[str]:
    """Return the ids of the runs whose journals the store has."""
    return _asked(lambda store: store.names(r"[\w-]+", _RUNS), [])


def pieces_of_journal(run_id: str, have: int) -> dict[str, bytes]:
    """Return the pieces of a run's journal; none where it has not grown beyond the bytes that somebody has."""

    def read(store: Folder) -> dict[str, bytes]:
        under = f"{_RUNS}/{run_id}"
        there = {entry.name: entry.size or 0 for entry in store.entries(under)}
        last = max(there, default="0")
        if int(Path(last).stem) + there.get(last, 0) <= have:
            return {}
        return {name: store.read(f"{under}/{name}") or b"" for name in there}

    return _asked(read, {})


class _Gone(Exception):
    """A content is not there."""


def _asked(work: Callable[[Folder], T], otherwise: T) -> T:
    """Return what is done with the store, `otherwise` where there is none."""
    found = store()
    if found is None:
        return otherwise
    try:
        return work(found)
    except StorageError as error:
        do_without(error)
        return otherwise


def _offer(path: Path, files: Sequence[Listed], send: Callable[[Folder, Listed], None]) -> bool:
    """Put contents, then their entry; return False where the store has another entry."""

    def offer(store: Folder) -> bool:
        entry = _entry(path)
        if (there := store.read(entry)) is not None:
            return there == _told(files)
        for file in files:
            send(store, file)
        return store.put_new(entry, _told(files))

    return _asked(offer, True)


def _one(path: Path, content: bytes) -> tuple[list[Listed], Callable[[Folder, Listed], None]]:
    """Describe a single file, and how it is sent."""
    file = Listed(path.name, len(content), hashlib.sha256(content).hexdigest())
    return [file], lambda store, file: store.put(f"{_CONTENTS}/{file.sha256}", content)


def _bring_file(path: Path) -> bool:
    def fetch(store: Folder, files: Sequence[Listed]) -> Listed | None:
        content = b"".join(_pieces(store, files[0]))
        if hashlib.sha256(content).hexdigest() != files[0].sha256:
            return files[0]
        home.put(path, content)
        return None

    return _brought(path, fetch)


def _brought(path: Path, fetch: Callable[[Folder, Sequence[Listed]], Listed | None]) -> bool:
    """Fetch what an entry names; one that is damaged is removed, so that whoever makes it again may put it."""

    def bring(store: Folder) -> bool:
        if (raw := store.read(_entry(path))) is None:
            return False
        for _ in range(_LOOKS):
            if not (wrong := _lacking(store, raw, fetch)):
                return True
        _log.warning(
            "warning: %s of the home %s is damaged (%s) and is made again", _name(path), redact(store.url), wrong
        )
        store.delete(_entry(path))
        return False

    return _asked(bring, False)


def _lacking(store: Folder, raw: bytes, fetch: Callable[[Folder, Sequence[Listed]], Listed | None]) -> str:
    """Fetch what an entry names; return what is wrong with it, nothing where it is all here."""
    try:
        files = from_plain(json.loads(raw))
        _ = files[0]
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        return f"its entry cannot be read: {type(error).__name__}"
    try:
        other = fetch(store, files)
    except _Gone as gone:
        return f"{gone} is not there"
    return f"{other.name} is not what was put there, SHA-256 {other.sha256[:12]}" if other else ""


def _pieces(store: Folder, file: Listed) -> Iterator[bytes]:
    try:
        yield from store.pieces(f"{_CONTENTS}/{file.sha256}")
    except FileNotFoundError:
        raise _Gone(file.name) from None


def _name(path: Path) -> str:
    return path.relative_to(home.home()).as_posix()


def _entry(path: Path) -> str:
    return f"{_KEPT}/{_name(path)}{_ENTRY}"


def _told(files: Sequence[Listed]) -> bytes:
    return json.dumps(as_plain(files), indent=1, sort_keys=True).encode()
