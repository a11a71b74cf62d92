"""What a table says of itself by schema and first rows: which columns a model may take, which tell rows apart."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import pyarrow as pa
import pyarrow.compute as pc

from optinfer.config import SourceConfig
from optinfer.data.carrying import require_carried
from optinfer.data.sources import SOURCES, kind_of
from optinfer.errors import ConfigError, suggest
from optinfer.families import Columns, Family

_ROWS = 1024
_ID = re.compile(r"(?i:(.+[_-])?(id|key|uuid|guid))|.*[a-z0-9]I[dD]")  # user_id and userId; neither paid nor valid
# Inputs of which a reason names the columns.
_NAMED = 3
# What a model was trained to tell, and the row numbers that pandas stores beside a frame whose rows were chosen.
LABELS = re.compile(r"label|class|category|target|y|truth|ground_truth", re.IGNORECASE)
_NO_FEATURE = re.compile(rf"(?i:{LABELS.pattern}|__index_level_\d+__)")
# A text is longer than what names, dates or classes have, by this much at least.
_TIMES_LONGER = 3


@dataclass(frozen=True)
class Look:
    """A table's columns, and the first rows of those whose values say what they are."""

    schema: pa.Schema
    sample: pa.Table


def look(source: SourceConfig) -> Look:
    """Look at a table.

    Raises:
        ConfigError, SourceError: it cannot be read.
    """
    kind = SOURCES.get(kind_of(source))
    some = source.model_copy(update={"limit": min(source.limit or _ROWS, _ROWS)})
    schema = kind.plan(some, [], _ROWS).schema
    telling = [field.name for field in schema if _is_telling(field.type) and schema.names.count(field.name) == 1]
    plan = kind.plan(some, telling, _ROWS)
    reader = kind.reader(telling)
    rows = [reader.read(fragment).select(telling) for fragment in plan.fragments]
    return Look(schema, pa.concat_tables(rows) if rows else plan.schema.empty_table().select(telling))


def _is_telling(kind: pa.DataType) -> bool:
    return _is_text(kind) or pa.types.is_integer(kind)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def mapped(family: Family, seen: Look, given: Columns) -> tuple[dict[str, str | tuple[str, ...]], str]:
    """Return role -> column(s), and why these.

    Args:
        given: what a person said already.

    Raises:
        ConfigError: of a role it cannot be told; names the candidates.
    """
    for said in given.values():
        for name in [said] if isinstance(said, str) else said:
            if name not in seen.schema.names:
                raise ConfigError(
                    f"source.columns: the table has no column {name!r}" + suggest(name, seen.schema.names)
                )
    columns, reasons = dict(given), defaultdict[str, list[str]](list)
    for role in family.roles:
        if role not in columns:
            columns[role], why = _of_role(family, role, seen, columns)
            reasons[why].append(role)
    family.check(seen.schema, columns)
    return columns, "; ".join(f"{_shown(columns, roles)}: {why}" for why, roles in reasons.items())


def _shown(columns: Columns, roles: Sequence[str]) -> str:
    """Return which columns the model's inputs have; of many, the first, and how many there are."""
    one = [role if isinstance(columns[role], tuple) else f"{role} <- {columns[role]}" for role in roles[:_NAMED]]
    return ", ".join(one) + (f" and {len(roles) - _NAMED} more" if len(roles) > _NAMED else "")


def _of_role(family: Family, role: str, seen: Look, taken: Columns) -> tuple[str | tuple[str, ...], str]:
    suited = [name for name in seen.schema.names if name not in taken.values() and _suits(family, role, seen, name)]
    if role in suited or (role in seen.schema.names and len(family.roles) > 1):
        return role, "by that name"
    like = [name for name in suited if _plain(name) == _plain(role)]
    if len(like) == 1:
        return like[0], "by that name, but for spaces, signs and case"
    if len(suited) > 1:
        suited = [name for name in suited if not _ID.fullmatch(name)] or suited
    if len(suited) == 1:
        return suited[0], f"the only column that {role} can be"
    if not suited and (side_by_side := _side_by_side(family, role, seen, taken)):
        left_out = f" ({', '.join(others)} left out)" if (others := _beside(seen, side_by_side, taken)) else ""
        return (
            side_by_side,
            f"all columns of numbers{left_out}, in the table's order, are as many as the model takes; see to the order",
        )
    if longest := _longest(suited, seen):
        return longest, f"its texts are {_TIMES_LONGER} times as long as any other column's, or more"
    held = ", ".join(f"{field.name} ({field.type})" for field in seen.schema)
    which = f"any of {', '.join(suited)} could be it" if suited else f"no column suits: the table has {held}"
    example = suited[0] if suited else "COLUMN"
    raise ConfigError(f"the model's {role!r} cannot be told: {which}; say --set source.columns.{role}={example}")


def _suits(family: Family, role: str, seen: Look, column: str | tuple[str, ...]) -> bool:
    """Tell whether a column could be a role, as far as a family can be asked: it checks all roles at once."""
    others: Mapping[str, str | tuple[str, ...]] = dict.fromkeys(family.roles, column)
    try:
        family.check(seen.schema, {**others, role: column})
    except (ConfigError, KeyError):
        return False
    return True


def _side_by_side(family: Family, role: str, seen: Look, taken: Columns) -> tuple[str, ...] | None:
    """Return all columns of numbers but ids, or all but labels and pandas' index, too, where they are as many."""
    every = _numbers(seen, taken)
    for numbers in (every, tuple(name for name in every if not _NO_FEATURE.fullmatch(name))):
        if len(numbers) > 1 and _suits(family, role, seen, numbers):
            return numbers
    return None


def _numbers(seen: Look, taken: Columns) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in seen.schema
        if (pa.types.is_floating(field.type) or pa.types.is_integer(field.type))
        and field.name not in taken.values()
        and not _ID.fullmatch(field.name)
    )


def _beside(seen: Look, chosen: tuple[str, ...], taken: Columns) -> list[str]:
    return [name for name in _numbers(seen, taken) if name not in chosen]


def _plain(name: str) -> str:
    """Return a name as libraries rewrite it: LightGBM has _ for white space, others drop what is no letter."""
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def _longest(names: list[str], seen: Look) -> str | None:
    """Return the column whose texts are by far the longest."""
    lengths = {
        name: float(pc.mean(pc.utf8_length(seen.sample.column(name))).as_py() or 0)
        for name in names
        if name in seen.sample.column_names and _is_text(seen.sample.schema.field(name).type)
    }
    if len(lengths) < len(names) or not lengths:
        return None
    first, second = sorted(lengths, key=lambda name: -lengths[name])[:2]
    return first if lengths[first] > _TIMES_LONGER * max(lengths[second], 1) else None


def ids(seen: Look, used: set[str], gained: set[str]) -> tuple[list[str], str]:
    """Return the columns that tell rows apart, and why these.

    Args:
        used: columns that the model reads.
        gained: names that the output has anyway, in lower case.
    """
    rows = seen.sample.num_rows
    able = [name for name in seen.sample.column_names if name.casefold() not in gained and _is_carried(seen, name)]
    distinct = [name for name in able if rows and _distinct(seen, name) == rows]
    if named := [name for name in distinct if _ID.fullmatch(name)]:
        return named, f"named as ids, and different in each of the first {rows:,} rows"
    if other := [name for name in distinct if name not in used]:
        return other[:1], f"different in each of the first {rows:,} rows"
    for pair in combinations([name for name in able if name not in used], 2):
        if rows and seen.sample.select(pair).group_by(list(pair)).aggregate([]).num_rows == rows:
            return list(pair), f"together different in each of the first {rows:,} rows"
    return (
        [],
        "no column tells rows apart; rows keep the source's order, and a part's name says which fragment it is of",
    )


def _distinct(seen: Look, name: str) -> int:
    return int(pc.count_distinct(seen.sample.column(name), mode="only_valid").as_py())


def _is_carried(seen: Look, name: str) -> bool:
    try:
        require_carried(pa.schema([seen.schema.field(name)]))
    except ConfigError:
        return False
    return True
