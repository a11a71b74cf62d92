"""The only Ray Data file: fragments in, receipts out. Rows never leave the replica that scores them.

One task yields runs of the plan's fragments as the replicas take them; a block is one run, all the way to the actor
that scores and commits it (scorer.py). So the driver never holds more than what is in flight.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from optinfer.data.fragments import Plan
from optinfer.errors import OptinferError
from optinfer.execution.placement import Placement
from optinfer.execution.scorer import FragmentScorer, Receipt, ScoringTask
from optinfer.system import last_resort
from optinfer.system.quiet import hush
from optinfer.tracking.metrics import Stats

# One fragment in the model, one being read or committed.
_OVERLAP = 2
# An actor that dies (out of memory, a crash in a native library) is replaced and its fragments are tried again,
# isolated: the restarts cover as many bad fragments an actor. Retries cover a lost node: until Ray has found out, some
# 15 s, each fragment of it is tried again once a second.
_TASK_RETRIES = 60
_RESTARTS = 100
# Ray Data hands out some 200 blocks a second and keeps 5 kB of each until the end: very many fragments go in runs.
_MOST_BLOCKS = 16_384


@dataclass(frozen=True)
class Todo:
    """The fragments of a plan that are left, as (n,) ascending indices."""

    plan: Plan
    indices: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.indices)

    def spans(self, replicas: int) -> Iterator[tuple[int, int]]:
        """Yield [first, stop) of each run.

        The first are one fragment long, so that receipts come soon. The last have no more rows than a replica's fair
        share of what is left, so that replicas finish together.
        """
        cuts, at_once = self.plan.fragments, replicas * _OVERLAP
        rows = np.concatenate([[0], np.cumsum((cuts.stop - cuts.start)[self.indices])])
        longest, first = -(-len(self) // _MOST_BLOCKS), 0
        while first < len(self):
            fair = rows[first] + (rows[-1] - rows[first]) / at_once
            within = int(np.searchsorted(rows, fair, side="right")) - 1
            stop = max(min(first + longest, first + 1 + first // at_once, within), first + 1)
            yield first, stop
            first = stop

    def runs(self, replicas: int = 1) -> Iterator[str]:
        """Yield runs of fragments with their part names, as JSON."""
        for first, stop in self.spans(replicas):
            run = self.indices[first:stop].tolist()
            named = [{"fragment": asdict(self.plan.fragments[i]), "part": self.plan.part_name(i)} for i in run]
            yield json.dumps(named)


def stream(task: ScoringTask, placement: Placement, todo: Todo) -> Generator[Receipt, None, None]:
    """Score fragments and yield a receipt as each is committed.

    Raises:
        OptinferError: the first error of any replica, of its own class.
    """
    import ray
    from ray.data.exceptions import ExecutionTimeoutError

    context = _context()
    parts = placement.parts
    replicas = sum(part.replicas for part in parts)
    hush()
    # Ray announces the end of `ray_remote_args_fn` without naming another way to bound restarts.
    warnings.filterwarnings("ignore", message=".*ray_remote_args", module="optinfer")
    # It also warns that one block came from one reading task, which yields as many as there are.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors", module="ray")
    with ray.data.DataContext.current(context):  # of this dataset alone: the caller's others keep theirs
        dataset = ray.data.read_datasource(_source(todo, replicas), num_cpus=0, override_num_blocks=1).map(
            FragmentScorer,
            fn_constructor_args=(task,),
            compute=ray.data.ActorPoolStrategy(
                min_size=replicas,
                initial_size=replicas,
                max_size=sum(part.max_replicas for part in parts),
                max_tasks_in_flight_per_actor=_OVERLAP,
                max_concurrent_calls_per_actor=_OVERLAP,
                enable_true_multi_threading=True,
            ),
            # What every replica takes; `_remote_args` says what those of two kinds take.
            num_cpus=min(part.cpus_per_replica for part in parts),
            num_gpus=min(part.gpus_per_replica for part in parts) or None,
            ray_remote_args_fn=_remote_args(placement),
        )
    try:
        for row in dataset.iter_rows():
            yield from map(_receipt, json.loads(row["receipts"]))
    except ExecutionTimeoutError as error:
        raise OptinferError(
            f"no fragment moved for {context.execution_no_progress_timeout_s:g} s: {_described(placement)} do not "
            "start, or are stuck; see `ray status` for what is free. Fragments that take longer want a smaller "
            "source.fragment_rows, a cluster that takes longer to grow RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S"
        ) from error
    except ray.exceptions.RayError as error:
        raise OptinferError(
            f"replicas kept dying and Ray gave up: {str(error).strip().splitlines()[0]}; check memory "
            "(fewer replicas, smaller batching.max_batch_tokens), then run the same command again"
        ) from error


def _context() -> Any:
    """Return Ray Data's settings as they are here, changed to what a job needs."""
    import ray

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Every block is one row; blocks that were joined would all go to one replica.
    context.target_max_block_size = 1
    # A pool grows when its replicas have all the fragments they may have; by default only when they had more.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    return context


def _source(todo: Todo, replicas: int) -> Any:
    """Return the datasource whose one task yields a block for each run of fragments."""
    import pyarrow as pa
    import ray
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    kept = ray.put(todo)

    def read() -> Iterator[pa.Table]:
        for run in ray.get(kept).runs(replicas):
            yield pa.table({"run": [run]})

    class Fragments(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            nothing_known = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(read, nothing_known)]

    return Fragments()


def _remote_args(placement: Placement) -> Callable[[], dict[str, Any]]:
    """Return a function that says what the next actor is started with; Ray Data calls it once for each.

    Those on GPUs come first. An actor that Ray restarts keeps what it was started with.
    """
    actors = itertools.cycle([_actor(placement)] * placement.replicas + _actors_beside(placement))
    return lambda: dict(next(actors))


def _actor(placement: Placement) -> dict[str, Any]:
    """Return what one actor is started with.

    Restarts are bounded, as Ray Data restarts for ever: a fragment that kills its process would never end.
    """
    args: dict[str, Any] = {"max_restarts": _RESTARTS, "max_task_retries": _TASK_RETRIES}
    if placement.resources:
        args["resources"] = dict(placement.resources)
    if placement.accelerator_type:
        args["accelerator_type"] = placement.accelerator_type
    if placement.beside:
        args |= {"num_cpus": placement.cpus_per_replica, "num_gpus": placement.gpus_per_replica}
    return args


def _actors_beside(placement: Placement) -> list[dict[str, Any]]:
    """Return what each actor of the second variant is started with: on its node as long as that lives.

    Without that, Ray would put some on nodes with GPUs, and take the CPUs of the replicas there.
    """
    if placement.beside is None:
        return []
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    each = {**_actor(placement.beside), "num_cpus": placement.beside.cpus_per_replica}
    return [
        {**each, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}
        for node, count in placement.beside.pinned.items()
        for _ in range(count)
    ]


def _described(placement: Placement) -> str:
    return " and ".join(
        f"{part.replicas} replicas of {part.cpus_per_replica:g} CPUs and {part.gpus_per_replica:g} GPUs"
        for part in placement.parts
    )


def _receipt(raw: dict[str, Any]) -> Receipt:
    if "error" in raw:
        raise last_resort.again(raw)
    return Receipt(**{**raw, "stats": Stats.from_dict(raw["stats"])})
