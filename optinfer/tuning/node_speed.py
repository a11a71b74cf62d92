"""Rows per second of a whole node: its replicas together, each a process of its own, starting at one barrier.

What one replica does alone says little about several that share caches and memory bandwidth, so nothing here is
multiplied. `python -m optinfer.optimization.throughput TASK ANSWER` is the other side: it loads, warms up, says so on
its stdout, and scores once its stdin says to; TASK holds pickled arguments, written by the parent a moment before.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import pyarrow as pa

from optinfer.errors import OptinferError, scrubbed
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.records.stats import Stats
from optinfer.records.tuning import NodeSpeed
from optinfer.system.child import Child
from optinfer.system.machine import peak_rss_mb
from optinfer.system.quiet import muted

# As in an actor: one fragment in the model, one being tokenized.
_OVERLAP = 2
_LAST_WORDS = 500
_WARM_UP_ROWS = 64


def measure_node(
    settings: ReplicaSettings, sample: pa.Table, replicas: int, part_rows: int, time_limit: float, gpus: int = 0
) -> NodeSpeed:
    """Let each of `replicas` processes score all of `sample`, in parts of `part_rows`, at the same time.

    Args:
        settings: of every replica; `threads` is also what OMP_NUM_THREADS says, as Ray does for an actor.
        sample: a table with one column per role.
        replicas: how many processes.
        part_rows: rows in a part: what the job's fragments hold.
        time_limit: seconds after which all of it is ended.
        gpus: GPUs over which replicas on CUDA are dealt.

    Raises:
        OptinferError: a replica died, raised or took too long; none is left running.
    """
    until = monotonic() + time_limit
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="optinfer-node-")))
        parts = [sample.slice(start, part_rows) for start in range(0, sample.num_rows, part_rows)]
        children = []
        for i in range(replicas):
            # Each begins elsewhere: the same long rows at the same moment would be no job's rhythm.
            turn = i * len(parts) // replicas
            task = folder / f"task-{i}"
            task.write_bytes(pickle.dumps((settings, parts[turn:] + parts[:turn])))
            gpu = i % gpus if gpus and settings.device == "cuda" else None
            children.append(stack.enter_context(_started(task, folder / f"answer-{i}", settings.threads, gpu)))
        for child in children:
            _hear(child, until, time_limit)
        began = monotonic()
        for child in children:
            _begin(child)
        for child in children:
            _hear(child, until, time_limit)
        answers = [pickle.loads((folder / f"answer-{i}").read_bytes()) for i in range(replicas)]
    return _together(answers, began)


def _together(answers: Sequence[tuple[Stats, float, float]], began: float) -> NodeSpeed:
    stats = sum((stats for stats, _, _ in answers), Stats())
    seconds = max(max(ended for _, ended, _ in answers) - began, 1e-9)
    return NodeSpeed(
        rows_per_second=stats.rows_in / seconds,
        seconds=seconds,
        rows=stats.rows_in,
        rows_rejected=stats.rows_quarantined,
        peak_rss_mb=max(peak for _, _, peak in answers),
        memory_mb=sum(peak for _, _, peak in answers),
        micro_batches=stats.micro_batches,
        micro_batch_p50_ms=stats.latencies.percentile(50) * 1e3,
        micro_batch_p99_ms=stats.latencies.percentile(99) * 1e3,
        padding_fraction=stats.padding_fraction,
    )


@contextlib.contextmanager
def _started(task: Path, answer: Path, threads: int, gpu: int | None) -> Iterator[Child]:
    """Start a replica's process; it and what it started are gone when the block ends, however it ends."""
    environment = {"OMP_NUM_THREADS": str(threads), **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": _visible(gpu)})}
    child = Child(__name__, str(task), str(answer), environment=environment, speaks=True)
    try:
        yield child
    finally:
        child.end()


def _visible(gpu: int) -> str:
    """Return the name of the n-th GPU among those this process may use."""
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return given[gpu % len(given)] if given else str(gpu)


def _hear(child: Child, until: float, time_limit: float) -> None:
    """Wait for the child's next word: `ready`, or `done`."""
    assert child.process.stdout is not None
    if not select.select([child.process.stdout], [], [], max(until - monotonic(), 0))[0]:
        raise OptinferError(f"its replicas took more than {time_limit:.0f} s and were ended")
    word = os.read(child.process.stdout.fileno(), 4096).decode()
    if not word:
        raise OptinferError(f"a replica's process {_death(child)}")
    if word.startswith("error "):
        raise OptinferError(word.removeprefix("error "))


def _begin(child: Child) -> None:
    assert child.process.stdin is not None
    # One that died at the barrier is found when its next word is awaited.
    with contextlib.suppress(BrokenPipeError):
        child.process.stdin.write(b"\n")
        child.process.stdin.flush()


def _death(child: Child) -> str:
    code, words = child.ended()
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"{how} {words}".strip()


def _main(task: str, answer: str) -> None:
    say = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not pass for a word of ours
    try:
        with muted():
            settings, parts = pickle.loads(Path(task).read_bytes())
            replica = Replica(settings)
            replica.score(parts[0].slice(0, _WARM_UP_ROWS))
            print("ready", file=say)
            if not sys.stdin.buffer.readline():
                return  # the parent is gone
            with ThreadPoolExecutor(_OVERLAP) as pool:
                stats = sum((scored.stats for scored in pool.map(replica.score, parts)), Stats())
            ended = monotonic()  # the system's clock: the parent's reads the same
        Path(answer).write_bytes(pickle.dumps((stats, ended, peak_rss_mb())))
        print("done", file=say)
    except Exception as error:
        print(scrubbed(f"error {type(error).__name__}: {error}")[:_LAST_WORDS].replace("\n", " "), file=say)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])
