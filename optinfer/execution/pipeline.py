"""The only Ray Data file: fragments in, receipts out. Rows never leave the replica that scores them.

One task yields runs of the plan's fragments as the replicas take them; a block is one run, all the way to the actor
that scores and commits it (scorer.py). So the driver never holds more than what is in flight.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from optinfer.errors import OptinferError, UnfitNodeError
from optinfer.execution.meter import RayMeter
from optinfer.execution.parcels import parcels
from optinfer.execution.ray_cluster import KeptAway, RayNodes, alive, standing
from optinfer.execution.scorer import FragmentScorer, receipts
from optinfer.execution.stop import Stop
from optinfer.execution.task import ScoringTask
from optinfer.execution.todo import OVERLAP, Todo
from optinfer.execution.watchdog import Watchdog, described
from optinfer.inference.replica import mortal
from optinfer.records.placement import Placement
from optinfer.records.receipt import Receipt
from optinfer.system.quiet import hush

# An actor that dies (out of memory, a crash in a native library, a step that never ends) is replaced and its fragments
# are tried again, isolated: the restarts cover as many bad fragments an actor. Retries cover a lost node: until Ray has
# found out, some 15 s, each fragment of it is tried again once a second.
_TASK_RETRIES = 60
_RESTARTS = 100
# How many replicas in a row may refuse their node, for each that the job may have: a cluster that brings nothing but
# nodes of another kind would go on with it.
_REFUSALS_A_REPLICA = 10


@dataclass(frozen=True)
class Streaming:
    """What a stream goes by.

    Attributes:
        stop: ends it from outside.
        kept_away: knows the nodes on which a replica refused to score.
        here_alone: all replicas are on this node, and have its files.
    """

    stop: Stop
    kept_away: KeptAway
    here_alone: bool


def stream(
    task: ScoringTask, placements: Sequence[Placement], todo: Todo, how: Streaming
) -> Generator[Receipt, None, None]:
    """Score fragments and yield a receipt as each is committed.

    Raises:
        UnfitNodeError: a replica that had fragments at hand refused its node: the others can go on without it.
        OptinferError: the first error of any replica, of its own class.
    """
    import ray
    from ray.data.exceptions import ExecutionTimeoutError

    kept_away = how.kept_away
    task = task if how.here_alone else replace(task, place=parcels(task))
    context = _context()
    context.custom_execution_callback_classes = [_attended(how.stop, placements)]
    replicas, most = (sum(getattr(part, name) for part in placements) for name in ("replicas", "max_replicas"))
    context.max_consecutive_actor_init_deaths = _REFUSALS_A_REPLICA * most
    nodes = RayNodes(alive(), kept_away.name)
    _hush_ray()
    with ray.data.DataContext.current(context):  # of this dataset alone: the caller's others keep theirs
        dataset = ray.data.read_datasource(_source(todo, replicas), num_cpus=0, override_num_blocks=1).map(
            FragmentScorer,
            fn_constructor_args=(task,),
            fn_constructor_kwargs={"load": partial(mortal, leaving=nodes.leaving), "meter": RayMeter, "nodes": nodes},
            compute=ray.data.ActorPoolStrategy(
                min_size=replicas,
                initial_size=replicas,
                max_size=most,
                max_tasks_in_flight_per_actor=OVERLAP,
                max_concurrent_calls_per_actor=OVERLAP,
                enable_true_multi_threading=True,
            ),
            # What every replica takes; `_remote_args` says what those of two kinds take.
            num_cpus=min(part.cpus_per_replica for part in placements),
            num_gpus=min(part.gpus_per_replica for part in placements) or None,
            ray_remote_args_fn=_remote_args(placements, kept_away.look),
        )
    try:
        for row in dataset.iter_rows():
            yield from receipts(row)
    except UnfitNodeError:
        kept_away.look()
        raise
    except ExecutionTimeoutError as error:
        raise _nothing_moved(context.execution_no_progress_timeout_s, placements) from error
    except ray.exceptions.RayError as error:
        kept_away.look()
        if kept_away.untold:
            raise UnfitNodeError(kept_away.untold[0]) from error
        raise OptinferError(
            f"replicas kept dying and Ray gave up: {str(error).strip().splitlines()[0]}; check memory "
            "(fewer replicas, smaller batching.max_batch_tokens), then run the same command again"
        ) from error


def _nothing_moved(seconds: float, placements: Sequence[Placement]) -> OptinferError:
    return OptinferError(
        f"no fragment moved for {seconds:g} s: {described(placements)} do not start, or are stuck; see `ray status` "
        "for what is free. Fragments that take longer want a smaller source.fragment_rows, a cluster that takes longer "
        "to grow RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S"
    )


def _hush_ray() -> None:
    hush()
    # Ray announces the end of `ray_remote_args_fn` without naming another way to bound restarts.
    warnings.filterwarnings("ignore", message=".*ray_remote_args", module="optinfer")
    # It also warns that one block came from one reading task, which yields as many as there are.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors", module="ray")


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


def _attended(stop: Stop, placements: Sequence[Placement]) -> Any:
    """Return what Ray Data makes an observer of, which ends the dataset's execution when `stop` or a watchdog says."""
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class Attended(ExecutionCallback):
        def before_execution_starts(self, executor: Any) -> None:
            self._watchdog = Watchdog(described(placements), standing, stop.patience)

            def end(error: OptinferError) -> None:
                executor._shutdown = True  # else it would ask Ray to end what is gone with Ray, and wait
                executor._output_node[1].mark_finished(error)

            stop.reaches(end)

        def on_execution_step(self, executor: Any) -> None:
            self._watchdog()

    return Attended


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


def _remote_args(
    placements: Sequence[Placement], refused: Callable[[], Mapping[str, str]]
) -> Callable[[], dict[str, Any]]:
    """Return a function that says what the next actor is started with; Ray Data calls it once for each.

    Those on GPUs come first. An actor that Ray restarts keeps what it was started with; one that refused its node is
    not restarted, but followed by a new one, which is kept away from there.

    Args:
        refused: returns node -> why, as it is known when an actor is started.
    """
    actors = itertools.cycle([args for at in range(len(placements)) for args in _actors(placements, at)])
    left_out = {node for part in placements for node in part.left_out}

    def args() -> dict[str, Any]:
        avoided = sorted(left_out | refused().keys())
        selector = {"label_selector": {"ray.io/node-id": f"!in({','.join(avoided)})"}} if avoided else {}
        return {**next(actors), **selector}

    return args


def _actors(placements: Sequence[Placement], at: int) -> list[dict[str, Any]]:
    """Return what each actor of a pool is started with.

    Restarts are bounded, as Ray Data restarts for ever: a fragment that kills its process would never end.
    """
    placement = placements[at]
    args: dict[str, Any] = {"max_restarts": _RESTARTS, "max_task_retries": _TASK_RETRIES}
    if placement.resources:
        args["resources"] = dict(placement.resources)
    if placement.accelerator_type:
        args["accelerator_type"] = placement.accelerator_type
    if len(placements) > 1:
        args["num_cpus"] = placement.cpus_per_replica
    if placement.pinned:
        return _on_their_nodes(args, placement.pinned)
    if len(placements) > 1:
        args["num_gpus"] = placement.gpus_per_replica
    return [args] * placement.replicas


def _on_their_nodes(args: dict[str, Any], pinned: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return it for actors on their nodes, as long as these live.

    Without that, Ray would put some on nodes with GPUs, and take the CPUs of the replicas there.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return [
        {**args, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}
        for node, count in pinned.items()
        for _ in range(count)
    ]
