"""A champion and its challenger: two jobs over one table, each with the variant that its own gate lets score."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from optinfer.commands.resolved import Resolved, resolve
from optinfer.config import JobConfig
from optinfer.data.fragments import Fragment, Plan
from optinfer.data.sampling import spread
from optinfer.data.sources import SOURCES
from optinfer.data.whole_numbers import whole_numbers
from optinfer.errors import ConfigError, CorruptFileError, redact, suggest
from optinfer.models.registered import pinned
from optinfer.optimization.proving import Here
from optinfer.optimization.selection import Prepared
from optinfer.optimization.variants import catalog

# Rows that one side scores before it is the other's turn: both meet the same moments of the machine.
_TURN_ROWS = 256
# A sample is of rows from all over the table.
_FEWEST_FRAGMENTS = 16


@dataclass(frozen=True)
class Rival:
    """One of the two: its job, worked out, and the proved variant that scores."""

    name: str
    job: Resolved
    prepared: Prepared


def rivals(config: JobConfig, challenger: str, say: Callable[[str], None]) -> tuple[Rival, Rival]:
    """Return champion and challenger, each proved as a run would prove it.

    Args:
        challenger: a variant of the job's model, or another model for the job: a path or an address of MLflow's.

    Raises:
        ConfigError: it is neither, or is the champion itself, or the two cannot take the same rows.
        GateError: one has no variant that passes its gate.
    """
    config, _ = pinned(config)  # once, whatever moves the alias while both are proved
    against = _challenging(config, challenger)
    jobs = resolve(config), resolve(against)
    same_model = jobs[0].subject.model.key == jobs[1].subject.model.key
    if same_model and config.variant == against.variant:
        raise ConfigError(f"--challenger {redact(challenger)} is the champion itself; name another variant or model")
    _require_comparable(*jobs)
    found = tuple(next(Here(job.bench(say)).candidates(job.config)) for job in jobs)
    if found[0].artifact.key == found[1].artifact.key:
        raise ConfigError(
            f"--challenger {redact(challenger)} is what the job scores with already ({found[0].variant.name}); name "
            "another variant or model"
        )
    names = [p.variant.name if same_model else redact(j.config.model.path) for j, p in zip(jobs, found, strict=True)]
    return Rival(names[0], jobs[0], found[0]), Rival(names[1], jobs[1], found[1])


def tables(champion: Resolved, columns: list[str], never_null: list[str], rows: int | None) -> Iterator[pa.Table]:
    """Yield the rows that both score, read once, a turn's worth at a time; none has a null in `never_null`.

    Args:
        columns: source columns to read.
        rows: how many are taken, evenly over the table and the same ones each time; None takes all.

    Raises:
        SourceError: the table is not the planned one, or a file of it cannot be read.
    """
    reader = SOURCES.get(champion.subject.source).reader(columns)
    skipped = [CorruptFileError] if champion.config.source.on_bad_file == "quarantine" else []
    for fragment, places in _places(champion.plan, rows):
        with contextlib.suppress(*skipped):
            table = reader.read(fragment)
            table = _known(table if places is None else table.take(whole_numbers(places)), never_null)
            for start in range(0, table.num_rows, _TURN_ROWS):
                yield table.slice(start, _TURN_ROWS)


def _places(plan: Plan, rows: int | None) -> Iterator[tuple[Fragment, list[int] | None]]:
    """Yield fragments from all over the table, and which of their rows are taken; None: all."""
    if rows is None or rows >= plan.rows:
        yield from ((fragment, None) for fragment in plan.fragments)
        return
    # They are of different sizes: twice as many as would do on average hold enough.
    most = max(_FEWEST_FRAGMENTS, 2 * rows * len(plan.fragments) // plan.rows)
    chosen = [plan.fragments[at] for at in spread(len(plan.fragments), most)]
    places, start = np.array(spread(sum(fragment.rows for fragment in chosen), rows)), 0
    for fragment in chosen:
        inside = places[(places >= start) & (places < start + fragment.rows)] - start
        start += fragment.rows
        if len(inside):
            yield fragment, inside.tolist()


def _known(table: pa.Table, never_null: list[str]) -> pa.Table:
    for name in never_null:
        table = table.filter(table.column(name).is_valid())
    return table


def _challenging(config: JobConfig, challenger: str) -> JobConfig:
    known = catalog(config)
    if challenger in known:
        return config.model_copy(update={"variant": challenger})
    if not any(mark in challenger for mark in (":", "/", ".")):
        raise ConfigError(
            f"--challenger {challenger!r} is no variant{suggest(challenger, known)}; another model is named by its "
            "path, or as models:/NAME@ALIAS"
        )
    try:
        model = config.model.at(challenger)
    except ValidationError as error:
        raise ConfigError(f"--challenger {redact(challenger)}: {error.errors()[0]['msg']}") from error
    return config.model_copy(update={"model": model})


def _require_comparable(champion: Resolved, challenger: Resolved) -> None:
    ours, theirs = champion.subject.family, challenger.subject.family
    if champion.config.gate.label is None and ours.schema != theirs.schema:
        raise ConfigError(
            f"the two models give different columns ({_named(ours.schema)}; {_named(theirs.schema)}), and without "
            "labels nothing else compares them: name a column with the true answers in gate.label"
        )


def _named(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
