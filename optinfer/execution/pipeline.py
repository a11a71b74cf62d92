"""The only Ray Data file: fragments in, receipts out. Rows never leave the replica that scores them.

Every block is one fragment's description, all the way to the actor that scores and commits it (scorer.py).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import optinfer.errors
from optinfer.data.fragments import Fragment
from optinfer.errors import OptinferError
from optinfer.execution.placement import Placement
from optinfer.execution.scorer import FragmentScorer, Receipt, ScoringTask
from optinfer.quiet import hush
from optinfer.tracking.metrics import Stats

# One fragment in the model, one being read or committed.
_OVERLAP = 2
# An actor that dies (out of memory, a crash in a native library) is replaced and its fragments are tried again,
# isolated: the retries cover the isolated attempt and a lost node or two, the restarts as many bad fragments an actor.
_TASK_RETRIES = 3
_RESTARTS = 100


def stream(task: ScoringTask, placement: Placement, fragments: Sequence[tuple[Fragment, str]]) -> Iterator[Receipt]:
    """Score fragments, given with their part names, and yield a receipt as each is committed.

    Raises:
        OptinferError: the first error of any replica, of its own class.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    hush()
    # Ray announces the end of `ray_remote_args_fn` without naming another way to bound restarts.
    warnings.filterwarnings("ignore", message=".*ray_remote_args", module="optinfer")
    rows = [{"fragment": json.dumps(asdict(f)), "part": part} for f, part in fragments]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        FragmentScorer,
        fn_constructor_args=(task,),
        compute=ray.data.ActorPoolStrategy(
            size=placement.replicas,
            max_tasks_in_flight_per_actor=_OVERLAP,
            max_concurrent_calls_per_actor=_OVERLAP,
            enable_true_multi_threading=True,
        ),
        num_cpus=placement.cpus_per_replica,
        num_gpus=placement.gpus_per_replica or None,
        ray_remote_args_fn=_bounded_restarts,
    )
    try:
        for row in dataset.iter_rows():
            yield _receipt(json.loads(row["receipt"]))
    except ray.exceptions.RayError as error:
        raise OptinferError(
            f"replicas kept dying and Ray gave up: {str(error).strip().splitlines()[0]}; check memory "
            "(fewer replicas, smaller batching.max_batch_tokens), then run the same command again"
        ) from error


def _bounded_restarts() -> dict[str, int]:
    """Bound what Ray Data does for ever by default: a fragment that kills its process would never end."""
    return {"max_restarts": _RESTARTS, "max_task_retries": _TASK_RETRIES}


def _receipt(raw: dict[str, Any]) -> Receipt:
    if "error" in raw:
        raise getattr(optinfer.errors, raw["error"], OptinferError)(raw["message"])
    return Receipt(**{**raw, "stats": Stats.from_dict(raw["stats"])})
