"""How Ray ends: a process that scored its rows ends with its own exit code, whatever is freed while Ray goes."""

from __future__ import annotations

import subprocess
import sys

import pytest

# References in cycles, as Ray Data leaves them. From the end of the block on they become garbage one after another, and
# what a thread allocates beside it has Python collect them.
_PROGRAM = """
import gc, threading
from optinfer.execution.cluster import connected

class Cycle:
    def __init__(self, value):
        self.me, self.value = self, value

def drop():
    while kept and not ended.is_set():
        kept.pop()
        [[] for _ in range(300)]

ended, kept = threading.Event(), []
with connected("local"):
    import ray
    gc.freeze()
    gc.collect()
    gc.set_threshold(100, 1, 1)
    kept = [Cycle(ray.put(b"x")) for _ in range(20_000)]
    threading.Thread(target=drop, daemon=True).start()
ended.set()
print("ended", flush=True)
"""


@pytest.mark.slow
def test_what_is_freed_while_ray_ends_does_not_end_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=400)
    assert (ended.returncode, ended.stdout) == (0, "ended\n"), ended.stderr[-2000:]
