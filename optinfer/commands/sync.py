"""sync(target): journals brought to MLflow where it was away, from this machine or from the copy beside an output."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import Timeout

from optinfer.commands.asked_for import target as target_of
from optinfer.commands.history import Alive
from optinfer.data.output import JOURNALS, Output
from optinfer.data.storage import Folder, is_local
from optinfer.errors import ConfigError, OptinferError, redact
from optinfer.records.sync import COMPLETE, FAILED, RUNNING, SENT, Synced, SyncRecord
from optinfer.system import home
from optinfer.tracking.journal import JOURNAL, held
from optinfer.tracking.journal_copy import whole
from optinfer.tracking.mlflow_store import database, is_refusal, reason
from optinfer.tracking.replay import Story, replay, story

_SUFFIX = ".jsonl"


@dataclass(frozen=True)
class Where:
    """Which MLflow; what is None, the journal says."""

    uri: str | None = None
    experiment: str | None = None


@dataclass(frozen=True)
class _Journal:
    """One journal, wherever it lies.

    Attributes:
        alive: tells whether a run that began then and has no end goes on, on another machine maybe.
    """

    shown: str
    read: Callable[[], bytes]
    alive: Callable[[float], bool] = lambda started: False


def sync(target: str | None, where: Where) -> SyncRecord:
    """Bring journals to MLflow; done twice, the second time changes nothing there.

    Args:
        target: a journal, the folder that it or an output is in, or a job file; None takes all of this machine.

    Raises:
        ConfigError: there is no journal at `target`.
    """
    if target is None:
        journals = [_local(path) for path in sorted(home.runs().glob(f"*/{JOURNAL}"))]
    else:
        named = target_of(target)
        if named.config and where.uri is None:
            where = Where(named.config.tracking.uri, where.experiment)
        journals = list(_found(named.url))
    done = _Done(where)
    return SyncRecord(tuple(done.one(journal) for journal in journals))


def _local(path: Path) -> _Journal:
    return _Journal(str(path), path.read_bytes)


def _found(url: str) -> Iterator[_Journal]:
    """Yield the journals that a path names: one file, a run's folder, or an output with those of all its runs."""
    if url.endswith(_SUFFIX):
        above, _, name = url.rpartition("/")
        yield _Journal(redact(url), partial(_bytes, Folder(above or "."), name))
        return
    folder, output = Folder(url), Output(url)
    if JOURNAL in (names := folder.names(rf".*\{_SUFFIX}")):
        yield _Journal(f"{redact(folder.url)}/{JOURNAL}", partial(_bytes, folder, JOURNAL))
    elif names:
        yield _Journal(redact(folder.url), partial(_joined, folder, ""))
    elif runs := folder.names(under=JOURNALS):
        for run in runs:
            under = f"{JOURNALS}/{run}"
            yield _Journal(f"{redact(folder.url)}/{under}", partial(_joined, folder, under), Alive(output))
    else:
        raise ConfigError(
            f"{redact(url)} has no journal; give a journal.jsonl, the folder of a run in $OPTINFER_HOME/runs, or the "
            "job's sink.path: an output has journals of the runs that wrote it, unless an earlier version did"
        )


def _bytes(folder: Folder, name: str) -> bytes:
    if (found := folder.read(name)) is None:
        raise ConfigError(f"there is no {redact(folder.url)}/{name}; give the path or URL of a journal")
    return found


def _joined(folder: Folder, under: str) -> bytes:
    names = folder.names(rf".*\{_SUFFIX}", under)
    return whole({name: folder.read(f"{under}/{name}".lstrip("/")) or b"" for name in names})


class _Done:
    """Replays one journal after another; an MLflow that did not answer once is not asked again."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._away: dict[str, str] = {}

    def one(self, journal: _Journal) -> Synced:
        try:
            with _here(journal) as path:
                return self._replayed(journal, story(path))
        except ConfigError:
            raise
        except (OptinferError, OSError, ValueError, LookupError, TypeError) as error:
            why = f"it cannot be read ({type(error).__name__}: {error})"
            return Synced(journal=journal.shown, run_id="", status=FAILED, reason=why)

    def _replayed(self, journal: _Journal, told: Story) -> Synced:
        def ended(status: str, run: str | None = None, reason: str = "") -> Synced:
            return Synced(
                journal=journal.shown, run_id=told.run_id, status=status, uri=redact(uri), experiment=experiment,
                mlflow_run_id=run, reason=reason,
            )  # fmt: skip

        uri, experiment = self._uri(told), self._where.experiment or (told.tracked and told.tracked.experiment) or ""
        if told.cut_off and journal.alive(told.started):
            return ended(RUNNING)
        if why := _unknown(told, self._where, uri, experiment) or self._away.get(uri, ""):
            return ended(FAILED, reason=why)
        try:
            with held(home.runs() / told.run_id).acquire(timeout=0):
                run, sent = replay(told, uri, experiment)
        except Timeout:
            return ended(RUNNING)
        except OptinferError as error:
            return ended(FAILED, reason=str(error))
        except Exception as error:
            why = reason(uri, error)
            if not is_refusal(error):
                self._away[uri] = f"not asked again: {why}"
            return ended(FAILED, reason=why)
        return ended(SENT if sent else COMPLETE, run)

    def _uri(self, told: Story) -> str:
        """Return where a run is to be: as asked for, else as noted, with what only the environment may know."""
        noted, here = told.tracked.uri if told.tracked else "", os.environ.get("MLFLOW_TRACKING_URI", "")
        return self._where.uri or (here if here and redact(here) == noted else noted)


def _unknown(told: Story, where: Where, uri: str, experiment: str) -> str:
    """Say what nobody told of where a journal belongs; nothing where all is known."""
    if not uri or not experiment:
        return "it does not say which MLflow it belongs to, as an earlier version wrote it; add --uri and --experiment"
    file = database(uri)
    if where.uri is None and file and told.tracked and told.tracked.host != socket.gethostname() and not file.exists():
        return (
            f"its MLflow is a file of {told.tracked.host}, {file}; add --uri with an MLflow that is reached from here"
        )
    return ""


@contextmanager
def _here(journal: _Journal) -> Iterator[Path]:
    """Give a journal as a file on this machine, which is gone afterwards."""
    if is_local(journal.shown) and (path := Path(journal.shown)).is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="optinfer-sync-") as folder:
        path = Path(folder, JOURNAL)
        path.write_bytes(journal.read())
        yield path
