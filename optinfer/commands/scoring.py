"""The stream of a run: replicas placed, fragments dealt to them, receipts counted as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace

from optinfer.commands.books import Books, Indices
from optinfer.commands.summary import Summary
from optinfer.config import CONTROL, ExperimentConfig
from optinfer.errors import LoadError, UnfitNodeError
from optinfer.execution.arms import Arm, Experiment
from optinfer.execution.executor import Executor
from optinfer.execution.placement import Node
from optinfer.execution.placing import placed
from optinfer.execution.task import ScoringTask, Watch
from optinfer.execution.todo import Todo
from optinfer.optimization.pools import Pools, prefixed
from optinfer.records.placement import Placement
from optinfer.records.text import expected
from optinfer.tracking.progress import Progress

Warn = Callable[[Iterable[str]], None]


def stream(proved: Pools, books: Books, summary: Summary, executor: Executor, left: Indices) -> None:
    """Place the replicas and count their receipts as fragments are committed.

    Where a replica refuses its node, which came late and is of another kind, the others go on without that node.

    Raises:
        LoadError: no node is left.
    """
    if not len(left):
        return books.recorder.params(proved.params)
    executor.start()
    said: set[str] = set()

    def warn(reasons: Iterable[str]) -> None:
        for why in reasons:
            if why not in said:
                books.recorder.warn(f"left out: {why}")
            said.add(why)

    while len(left):
        try:
            _placed_and_counted(proved, books, summary, executor, left, warn)
            return warn(executor.refusals())
        except UnfitNodeError:
            if not (refused := executor.refusals()):
                raise  # it would be there again
            warn(refused)
            summary.placements = ()
            books.output.attempts.forget()  # what was begun died of its node
            left = books.uncounted(left)


def _placed_and_counted(
    proved: Pools, books: Books, summary: Summary, executor: Executor, left: Indices, warn: Warn
) -> None:
    nodes = executor.nodes([one.settings for one in proved.all])
    summary.mark("ray")
    # What is scored again has the place of the replicas that have just ended, which Ray may still count as taken.
    placements = summary.placements = summary.placements or placed(
        books.job.config.placement, proved, proved.first.variant.device, _fit(nodes, warn), len(left), executor.growing
    )
    if (told := summary.foretell(books.job, left, executor.where)) and told.forecast.seconds is not None:
        books.say(f"forecast: {expected(told.forecast)}")
    for one, place in zip(proved, placements, strict=False):
        books.say(f"scoring with {one.variant.name}: {'; '.join(place.reasons)}")
    for name, one in proved.arms.items():
        books.say(f"arm {name}: {one.variant.name}, for {books.job.config.experiment.arms[name].share:.4g} of the keys")
    task, todo = _task(proved, placements, books, summary.retry), Todo(books.job.plan, left)
    progressing = Progress(books.job.plan.rows, books.tally.total.rows_in)
    # Closed also where a receipt ends the job: whoever keeps that error would keep the replicas scoring.
    with progressing as progress, closing(executor.stream(task, placements, todo)) as receipts:
        for count, receipt in enumerate(receipts):
            if count == 0:  # not before: until a replica has loaded it, another variant may take its place
                books.recorder.params({**proved.params, **_placement_params(placements)})
            books.count(receipt)
            progress.advance(receipt.stats.rows_in, receipt.stats.rows_quarantined)
            warn(executor.refusals())


def _fit(nodes: Sequence[Node], warn: Warn) -> Sequence[Node]:
    """Return the nodes, once it is said which of them will have no replicas.

    Raises:
        LoadError: none may have any.
    """
    scoring = [node for node in nodes if node.cpus >= 1]
    unfit = [node for node in scoring if node.unfit]
    if unfit and len(unfit) == len(scoring):
        raise LoadError(unfit[0].unfit)
    warn(node.unfit for node in unfit)
    return nodes


def _placement_params(placements: Sequence[Placement]) -> dict[str, object]:
    return {
        f"placement.{name}": value
        for at, place in enumerate(placements)
        for name, value in prefixed(at, place.params).items()
    }


def _task(proved: Pools, placements: Sequence[Placement], books: Books, retry: bool) -> ScoringTask:
    job, config, watch = books.job, books.job.config, books.job.config.monitor
    # A pool that found no node has replicas on none, and its variant stays one whose rows the output may hold.
    threads = [place.threads_per_replica for place in placements] + [placements[-1].threads_per_replica] * len(proved)
    return ScoringTask(
        job=config.name,
        pools=tuple(replace(one.settings, threads=count) for one, count in zip(proved, threads, strict=False)),
        source=job.subject.source,
        sink=job.sink,
        columns=config.source.columns,
        columns_read=config.source.columns_read,
        carried=job.carried,
        output_url=config.sink.path,
        fingerprint=job.fingerprint,
        on_error=config.sink.on_error,
        on_bad_file=config.source.on_bad_file,
        retry=retry,
        watch=Watch(watch.rows / max(job.plan.rows, 1), watch.columns) if watch.enabled else None,
        experiment=_experiment(proved, config.experiment, threads[0]),
        most_quarantined=max(books.tally.allowed - books.tally.total.rows_quarantined, 0),
    )


def _experiment(proved: Pools, config: ExperimentConfig, threads: int) -> Experiment | None:
    if config.key is None:
        return None
    arms = [
        Arm(name, config.arms[name].share, replace(one.settings, threads=threads)) for name, one in proved.arms.items()
    ]
    return Experiment(config.name, config.key, config.column, CONTROL, tuple(arms))
