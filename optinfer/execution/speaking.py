"""Work on another node that says what is going on while it goes on, and the driver that hears it.

Work that does not begin is waited for aloud, and not for ever: where no node is free for it and none is on its way, the
driver ends as a job does that cannot move (`watchdog.py`).
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from optinfer.execution.ray_cluster import standing
from optinfer.execution.stop import PATIENCE_SECONDS
from optinfer.execution.watchdog import Watchdog
from optinfer.system import last_resort

Say = Callable[[str], None]
Spoken = tuple[str, object]

_LOOK_SECONDS, _LOOKS_A_LINE = 1.0, 30


def spoken(work: Callable[[Say], Iterable[object]]) -> Iterator[Spoken]:
    """Do work on this node; yield (`begun`, None), (`line`, what is going on) and (`found`, what it makes).

    The end is (`end`, None) or (`error`, what `last_resort.told` makes of it).
    """
    words: queue.SimpleQueue[Spoken] = queue.SimpleQueue()

    def do() -> None:
        try:
            for one in work(lambda line: words.put(("line", line))):
                words.put(("found", one))
            words.put(("end", None))
        except Exception as error:
            words.put(("error", last_resort.told(error)))

    threading.Thread(target=do, name="optinfer-prove", daemon=True).start()
    yield "begun", None
    kind = ""
    while kind not in ("end", "error"):
        kind, value = words.get()
        yield kind, value


@dataclass(frozen=True)
class Listener:
    """Whoever hears what other nodes say.

    Attributes:
        say: is told what they say, and what is waited for.
        patience: seconds in which no node can begin and none is on its way, after which nobody waits any more.
    """

    say: Say
    patience: float = PATIENCE_SECONDS

    def heard(self, answers: Any, needs: str) -> Iterator[Any]:
        """Yield what a node finds.

        Args:
            answers: Ray's stream of what `spoken` yields there.
            needs: what the work takes of a node.

        Raises:
            OptinferError: what the work raised, of its own class; or no node could begin it.
            RayError: the node was lost.
        """
        import ray

        self._wait(answers, needs)
        for answer in answers:
            kind, value = ray.get(answer)
            if kind == "line":
                self.say(value)
            elif kind == "error":
                raise last_resort.again(value)
            elif kind == "found":
                yield value

    def _wait(self, answers: Any, needs: str) -> None:
        """Wait for the first word."""
        import ray

        watchdog = Watchdog(needs, standing, self.patience, still="no node began with it")
        for looked in itertools.count(1):
            if ray.wait([answers], timeout=_LOOK_SECONDS)[0]:
                return
            watchdog()
            if looked % _LOOKS_A_LINE == 0:
                self.say(f"waiting for {looked * _LOOK_SECONDS:.0f} s for a node with {needs} free; see `ray status`")
