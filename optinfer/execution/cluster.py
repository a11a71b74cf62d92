"""Ray, started here or joined: one that runs is used as it is and left running, one started here ends with the job."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from optinfer.errors import OptinferError
from optinfer.execution.placement import Node
from optinfer.execution.ray_process import PROCESS, RayProcess
from optinfer.execution.reach import chosen, require_node, require_reachable, require_startable, what_to_check
from optinfer.system import last_resort, will

_WAIT_SECONDS = 0.2
# How long Ray counts as taken what a task held that has ended, at most.
_SETTLE_SECONDS = 10.0
# How often Ray's processes are looked at; its core worker ends this process ten seconds after the raylet.
_LOOK_SECONDS = 0.5

_log = logging.getLogger(__name__)


class Connection:
    """Ray for one job; closed when its `with` block ends.

    Starting Ray takes seconds of waiting, so it goes on in a thread while the driver does other things, and so does its
    end: `open`, then `ready`, then `release` as soon as nothing needs it. The thread lives as long as the connection:
    Ray's processes are told to die with the thread that started them.

    A process has one Ray. Of two jobs in two threads the second waits for the end of what the first started.

    Args:
        address: None uses `RAY_ADDRESS` or starts Ray here; `local` always starts it; else a cluster's address.
        ray: the Ray of this process.
        when_lost: is told, by another thread, that Ray is gone while the job still needs it.
    """

    # Whoever connected this process, and who may be next.
    _turn = threading.Lock()
    _holder: Connection | None = None

    def __init__(
        self,
        address: str | None,
        ray: RayProcess = PROCESS,
        when_lost: Callable[[OptinferError], None] = lambda error: None,
    ) -> None:
        self._given, self._ray, self._when_lost = address, ray, when_lost
        self._thread: threading.Thread | None = None
        self._caller = 0
        self._answered, self._unneeded = threading.Event(), threading.Event()
        self._error: OptinferError | None = None
        self._local = self._abandoned = False
        self._free: list[Node] | None = None

    def __enter__(self) -> Connection:
        """Refuse at once what Ray would find out only when a job has proved its variant."""
        if not self._is_there():
            self._check()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._join()

    @property
    def growing(self) -> bool:
        """Tell whether nodes may join: not where Ray was started here for this job alone."""
        return not self._local

    @property
    def starts_here(self) -> bool:
        """Tell whether Ray will be started on this machine, for this job."""
        return chosen(self._given)[0] is None and not self._ray.is_initialized()

    def open(self) -> None:
        """Begin to connect, unless this did; an address that nobody listens on is refused at once."""
        if self._thread is not None and not self._unneeded.is_set():
            return
        self._join()
        self._error = None
        if self._is_there():
            return
        self._check()
        where, named_by = chosen(self._given)
        self._local = where is None
        self._caller = threading.get_ident()
        self._answered, self._unneeded = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._live, args=(where, named_by), name="optinfer-ray", daemon=True)
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
            self._free = self._ray.free_nodes()
        return self._free

    def free_again(self) -> None:
        """Ask anew for what is free, once something is: a node may have just done what this job asked of it."""
        until = time.monotonic() + _SETTLE_SECONDS
        while not any(node.cpus >= 1 for node in self._ray.free_nodes()) and time.monotonic() < until:
            time.sleep(_WAIT_SECONDS)
        self._free = None

    def release(self) -> None:
        """Begin to end what was started."""
        self._free = None
        self._unneeded.set()

    def _join(self) -> None:
        if self._thread is not None:
            if not self._abandoned:  # else it waits inside Ray, for what is gone
                self._thread.join()
            self._thread = None

    def _is_there(self) -> bool:
        """Tell whether this process has a Ray that this job may use: not one that ends with another thread's job."""
        holder = Connection._holder
        if not self._ray.is_initialized():
            return False
        if holder is not None and (holder._caller != threading.get_ident() or holder._unneeded.is_set()):
            return False
        if (self._given or "").strip() not in ("", "auto", "local"):
            self._check()  # that nobody listens there says more
            raise OptinferError(
                f"this process is connected to Ray already, it cannot also use {self._given}; "
                "leave the address out to use the connection it has, or call ray.shutdown() first"
            )
        return True

    def _check(self) -> None:
        where, named_by = chosen(self._given)
        require_node(where, named_by)
        if where is None:
            require_startable()
        else:
            require_reachable(where, named_by)

    def _live(self, where: str | None, named_by: str) -> None:
        try:
            if self._has_turn():
                try:
                    self._connected(where, named_by)
                finally:
                    Connection._holder = None
                    Connection._turn.release()
        finally:
            self._answered.set()

    def _has_turn(self) -> bool:
        """Wait for the end of another job's Ray in this process; return False where this is not needed any more."""
        if not Connection._turn.acquire(blocking=False):
            _log.warning("another job of this process uses Ray: this one goes on when that has ended")
            while not Connection._turn.acquire(timeout=_WAIT_SECONDS):
                if self._unneeded.is_set():
                    return False
        Connection._holder = self
        return True

    def _connected(self, where: str | None, named_by: str) -> None:
        try:
            self._start(where)
        except BaseException as error:  # Ray ends its process in places; here that would leave others waiting
            if self._error is None:
                self._error = OptinferError(
                    f"{_failed(where)}: {last_resort.named(error).rstrip('.')}; {what_to_check(where, named_by)}"
                )
                self._error.__cause__ = error
            return
        self._answered.set()
        while not self._unneeded.wait(_LOOK_SECONDS) and not self._abandoned:
            if gone := self._ray.gone():
                return self._lose(gone)
        if not self._abandoned:
            self._ray.shutdown()

    def _lose(self, gone: str) -> None:
        """Tell that Ray is gone before it ends this process, so that the job ends as others do."""
        self._error = OptinferError(
            f"Ray's {gone} on this machine ended while the job ran: it was killed, or crashed for want of memory; "
            f"committed fragments are kept, the same command goes on from them; {what_to_check(None, '')}"
        )
        will.leave(will.LOST, message=str(self._error))
        self._when_lost(self._error)
        self._ray.abandon()

    def _watch_start(self, started: threading.Event) -> None:
        """Give up a start of which a process ended: Ray would wait for it a minute, and then end this one."""
        while not started.wait(_LOOK_SECONDS):
            if gone := self._ray.gone():
                self._abandoned = True
                self._lose(gone)
                return self._answered.set()

    def _start(self, where: str | None) -> None:
        started = threading.Event()
        threading.Thread(target=self._watch_start, args=(started,), name="optinfer-ray-start", daemon=True).start()
        try:
            self._ray.init(where)
        except BaseException:
            with contextlib.suppress(Exception):  # the processes of a start that came half way
                self._ray.shutdown()
            raise
        finally:
            started.set()


def _failed(where: str | None) -> str:
    return "Ray cannot start here" if where is None else f"cannot connect to Ray at {where}"


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
