"""A replica's model, loaded on the node that scores, where it first proves itself; what fails names the node."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError

from optinfer.errors import LoadError, OptinferError, UnfitNodeError
from optinfer.execution.task import Nodes, Place
from optinfer.inference.at_work import LOAD_SECONDS
from optinfer.inference.canaries import require_fit, require_proved
from optinfer.inference.engine import Engine
from optinfer.inference.replica import ReplicaSettings

Load = Callable[[ReplicaSettings], Engine]
# Models of one process load one after another: a library that takes its own place in `sys.modules` while it is imported
# (transformers) is half a module to a second thread that imports it meanwhile.
_TURN = threading.Lock()


def require_admitted(settings: ReplicaSettings, nodes: Nodes) -> None:
    """End a replica before it begins where its node came after the job's nodes were looked at, and is not like them.

    Raises:
        UnfitNodeError: it is not; the others keep away from it.
    """
    if nodes.came_late():
        try:
            require_fit(settings)
        except UnfitNodeError as error:
            nodes.refuse(str(error))
            raise


class Loading:
    """A model that loads while the first fragments are read.

    Args:
        most_seconds: that it may take once its files are here; nothing ends it then, but nobody waits any more.
        turn: held while it loads.
    """

    def __init__(
        self,
        load: Load,
        settings: ReplicaSettings,
        place: Place | None = None,
        most_seconds: float = LOAD_SECONDS,
        turn: threading.Lock = _TURN,
    ) -> None:
        self._most_seconds, self._turn = most_seconds, turn
        # What it raises, a call says: an actor whose constructor raises would be started again and again.
        self._future: Future[tuple[Engine, ReplicaSettings]] = Future()
        # A daemon: where the cluster ends while files are fetched, Ray never answers, and no process may wait for that.
        threading.Thread(target=self._load, args=(load, settings, place), name="optinfer-load", daemon=True).start()

    def _load(self, load: Load, settings: ReplicaSettings, place: Place | None) -> None:
        try:
            settings = place.placed(settings) if place else settings
            _require_here(settings)
            late = threading.Timer(self._most_seconds, self._give_up, (settings,))
            late.daemon = True
            late.start()
            try:
                with self._turn:
                    self._settle(_loaded(load, settings), settings)
            finally:
                late.cancel()
        except BaseException as error:
            self._settle(error, settings)

    def _settle(self, came: Engine | BaseException, settings: ReplicaSettings) -> None:
        """Let those who wait go on with what came first."""
        with contextlib.suppress(InvalidStateError):
            if isinstance(came, BaseException):
                self._future.set_exception(came)
            else:
                self._future.set_result((came, settings))

    def _give_up(self, settings: ReplicaSettings) -> None:
        late = LoadError(
            f"node {socket.gethostname()} does not come to the end of loading {settings.variant or 'the variant'}: "
            f"nothing within {self._most_seconds:g} s; see what it waits for there (a file, a lock, a device), or "
            "choose another variant"
        )
        self._settle(late, settings)

    @property
    def engine(self) -> Engine:
        """What `load` made of the settings, and answers here as it did where it was certified; waits for it.

        Raises:
            OptinferError: the node lacks the driver's files, and cannot have them.
            LoadError: it cannot be loaded here, or is not what was certified.
        """
        return self._future.result()[0]

    @property
    def settings(self) -> ReplicaSettings:
        """The settings, with every folder where it is on this node; waits and raises as `engine` does."""
        return self._future.result()[1]


def _loaded(load: Load, settings: ReplicaSettings) -> Engine:
    def attempt(given: ReplicaSettings) -> Engine:
        try:
            return load(given)
        except Exception as error:
            what = str(error) if isinstance(error, OptinferError) else f"{type(error).__name__}: {error}"
            raise LoadError(f"node {socket.gethostname()} cannot load the variant: {what}") from error

    return require_proved(settings, attempt)


def _require_here(settings: ReplicaSettings) -> None:
    """Refuse to begin where files went after the variant was proved, by name."""
    for path in (settings.artifact.path, settings.model.path):
        if not os.path.isdir(path):
            raise OptinferError(
                f"node {socket.gethostname()} has no {path}, which the job was proved with: put it back, or run the "
                "same command again to have it made anew"
            )
