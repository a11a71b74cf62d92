"""outcomes(outputs, table): what came of the rows that an experiment dealt to its arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from optinfer.config import CONTROL, SourceConfig
from optinfer.data.output import Output
from optinfer.data.sources import SOURCES, kind_of
from optinfer.errors import ConfigError, redact
from optinfer.monitoring.arms import FEWEST, at_every_look, at_one_look, misdealt
from optinfer.monitoring.paired import LEVEL, Array, Difference
from optinfer.monitoring.verdict import decide
from optinfer.records.decision import Interval
from optinfer.records.outcomes import Against, OutcomesRecord

# Of so many rows at a time is a table read.
_ROWS = 100_000


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What counts as an outcome, and when an arm is no worse.

    Attributes:
        key, outcome: columns of the table of outcomes; `key` is one of the outputs', too.
        margin: a loss up to this is none, in the outcome's units.
        planned: keys of two arms together at which intervals are narrowest; the same at every look.
        lower_is_better: of the outcome.
    """

    key: str
    outcome: str
    margin: float = 0.0
    planned: int = 10_000
    lower_is_better: bool = False


def outcomes(
    outputs: Sequence[str], table: str, measure: Measure, say: Callable[[str], None] = lambda line: None
) -> OutcomesRecord:
    """Join outcomes to the rows that were scored, and hold each arm against the control.

    Args:
        outputs: folders of one experiment's nights.
        table: with the outcomes; any kind that a job reads.

    Raises:
        ConfigError: there is no experiment, a column is missing or of a type that is none, a key has two outcomes, or
            two arms.
        SourceError: a file cannot be read.
    """
    column, shares = _dealt(outputs)
    scored = _arms(outputs, measure.key, column)
    found = _outcomes(table, measure.key, measure.outcome)
    say(f"{scored.num_rows:,} keys scored, {found.num_rows:,} with an outcome")
    joined = scored.join(found, "key", join_type="inner")
    names = [CONTROL, *sorted({*shares, *scored["arm"].to_pylist()} - {CONTROL})]
    values: dict[str, Array] = {
        name: joined.filter(pc.equal(joined["arm"], name))["outcome"].to_numpy().astype(np.float64) for name in names
    }
    level = 1 - (1 - LEVEL) / max(len(names) - 1, 1)  # all of them hold together
    counts = {name: len(one) for name, one in values.items()}
    return OutcomesRecord(
        outcome=measure.outcome,
        column=column,
        control=CONTROL,
        keys=counts,
        means={name: float(one.mean()) if len(one) else float("nan") for name, one in values.items()},
        without_outcome=scored.num_rows - joined.num_rows,
        unknown=found.num_rows - joined.num_rows,
        planned=measure.planned,
        misdealt=misdealt(counts, {CONTROL: 1 - sum(shares.values()), **shares}),
        arms={name: _against(values[CONTROL], values[name], level, measure) for name in names[1:]},
    )


def _dealt(outputs: Sequence[str]) -> tuple[str, Mapping[str, float]]:
    """Return the column with the arms, and their shares, of the experiment that all these outputs are of."""
    found: dict[str, object] = {}
    for url in outputs:
        job = Output(url).binding.job()
        experiment = job.fields.get("experiment") if job else None
        if not isinstance(experiment, dict):
            raise ConfigError(
                f"{redact(url)} is no output of a job with an experiment; name the sink.path of one that has "
                "experiment.arms"
            )
        dealt = {
            "name": experiment["name"],
            "key": experiment["key"],
            "column": experiment["column"],
            "shares": {name: arm["share"] for name, arm in experiment["arms"].items()},
        }
        if found and found != dealt:
            raise ConfigError(
                f"{redact(url)} is of another experiment than {redact(outputs[0])}: keys were dealt otherwise there; "
                "look at each by itself"
            )
        found = dealt
    shares = found["shares"]
    assert isinstance(shares, dict)
    return str(found["column"]), shares


def _arms(outputs: Sequence[str], key: str, column: str) -> pa.Table:
    """Return each key that was scored, once, with its arm."""
    read = [_columns(url, [key, column], "put it into sink.columns, and score again") for url in outputs]
    rows = pa.concat_tables([_keyed(one, key, column, "arm") for one in read]).group_by(["key", "arm"]).aggregate([])
    if twice := _twice(rows):
        raise ConfigError(
            f"--key {key}: {twice} is in two arms; rows were dealt by another column: name that one, which "
            "experiment.key says"
        )
    return rows


def _outcomes(table: str, key: str, outcome: str) -> pa.Table:
    """Return each key of the table with its outcome; those without one are left out."""
    read = _columns(table, [key, outcome], "name columns that it has")
    kind = read.schema.field(outcome).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ConfigError(f"--outcome {outcome} is of type {kind}; an outcome is a number, or true and false")
    rows = _keyed(read, key, outcome, "outcome").drop_null()
    rows = rows.set_column(1, "outcome", rows["outcome"].cast(pa.float64()))
    rows = rows.filter(pc.is_finite(rows["outcome"]))
    if twice := _twice(rows):
        raise ConfigError(
            f"{redact(table)} has more than one {outcome} for {key} {twice}; bring it down to one a key first (a sum, "
            "the last, any)"
        )
    return rows


def _columns(url: str, columns: list[str], fix: str) -> pa.Table:
    source = SourceConfig(path=url)
    kind = SOURCES.get(kind_of(source))
    try:
        plan = kind.plan(source, columns, _ROWS)
    except ConfigError as error:
        raise ConfigError(f"{error}; {fix}") from error
    reader = kind.reader(columns)
    tables = [reader.read(fragment) for fragment in plan.fragments]
    return pa.concat_tables(tables) if tables else plan.schema.empty_table().select(columns)


def _keyed(table: pa.Table, key: str, column: str, name: str) -> pa.Table:
    """Return keys as text, as they were dealt, beside one column; without rows that have no key."""
    known = table.filter(table[key].is_valid())
    return pa.table({"key": known[key].cast(pa.string()), name: known[column]})


def _twice(rows: pa.Table) -> str | None:
    """Return a key that is there more than once, None where there is none."""
    counts = rows.group_by("key").aggregate([([], "count_all")])
    more = counts.filter(pc.greater(counts["count_all"], 1))
    return str(more["key"][0].as_py()) if more.num_rows else None


def _against(control: Array, arm: Array, level: float, measure: Measure) -> Against:
    if min(len(control), len(arm)) < FEWEST:
        few = f"{len(control)} and {len(arm)} keys have an outcome; {FEWEST} in each are the least that tells anything"
        return Against(verdict="cannot tell", reason=few, difference=None, at_one_look=None, p_value=None)
    always, once = at_every_look(control, arm, measure.planned, level), at_one_look(control, arm, level)
    turned = replace(always, value=-always.value, low=-always.high, high=-always.low)
    decision = decide(turned if measure.lower_is_better else always, len(control) + len(arm), measure.margin)
    return Against(
        verdict=decision.verdict,
        reason=decision.reason + (" (turned round: lower is better)" if measure.lower_is_better else ""),
        difference=_interval(always),
        at_one_look=_interval(once),
        p_value=once.p_value,
    )


def _interval(found: Difference) -> Interval:
    return Interval(value=found.value, low=found.low, high=found.high, level=found.level)
