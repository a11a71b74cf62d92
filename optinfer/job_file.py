"""Reads a job file: YAML, `--set`, and errors that name file, line and the nearest valid key."""

from __future__ import annotations

import reprlib
from datetime import date
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError

from optinfer.config import FAMILY_SETTINGS, JobConfig, ModelConfig, settings_of
from optinfer.errors import ConfigError, suggest
from optinfer.secrets import clean, is_secret_name, learn
from optinfer.system import dates, yaml_file

# What is shown of a value, and how many mistakes of a file: the first ones say what kind of file it is.
_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = _LONGEST = 80
_shown.maxlevel = 2
_MOST_ERRORS = 20


def load_job(path: str | Path, overrides: tuple[str, ...] = (), logical_date: date | None = None) -> JobConfig:
    """Read a job YAML, apply `--set a.b=value` overrides (values are YAML, too) and put the date into its paths.

    Args:
        logical_date: the night that the job is for; None is today.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or a key or value is wrong; names file and line. A date is
            given, and the job has no use for one.
    """
    node, raw = _read(path, overrides)
    if logical_date and not any(map(dates.has_dates, _paths(raw))):
        raise ConfigError(
            f"{path}: --logical-date changes nothing, as neither source.path nor sink.path has {{date}} or {{previous}}"
            "; write one there (docs/schedule.md), or leave the option out"
        )
    where = lambda loc: _overridden(overrides, loc) or f"{path}:{_line(node, loc)}"  # noqa: E731
    return parse_job(raw, where, logical_date)


def written_paths(path: str | Path, overrides: tuple[str, ...] = ()) -> list[str]:
    """Return the source's and the sink's path as they are written, before a date is put in."""
    return _paths(_read(path, overrides)[1])


def _read(path: str | Path, overrides: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    node, raw = yaml_file.read(Path(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a job is a mapping with the keys {', '.join(JobConfig.model_fields)}")
    for override in overrides:
        apply(raw, override)
    learn(raw)
    return node, raw


def _paths(raw: dict[str, Any]) -> list[str]:
    sections = (raw.get(name) for name in ("source", "sink"))
    return [str(section["path"]) for section in sections if isinstance(section, dict) and "path" in section]


def parse_job(raw: dict[str, Any], where: Any = None, logical_date: date | None = None) -> JobConfig:
    """Validate a plain mapping; `where` turns an error's location into `file:line`."""
    try:
        return JobConfig.model_validate(raw, context={"logical_date": logical_date})
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        lines = [_explain(e, where, raw) for e in found[:_MOST_ERRORS]]
        lines += [f"and {len(found) - _MOST_ERRORS:,} more"] if len(found) > _MOST_ERRORS else []
        raise ConfigError("\n".join(lines)) from None


def apply(raw: dict[str, Any], override: str) -> None:
    """Put `a.b=value` into a job's plain values.

    Raises:
        ConfigError: it is not written so, or `a` is no section.
    """
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {override!r}: write it as a.b=value, for example --set source.limit=1000")
    *parents, leaf = dotted.split(".")
    target = raw
    for name in parents:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {override!r}: {name!r} is a value, not a section, in the job file")
    target[leaf] = yaml_file.value(value, f"--set {override!r}: the value")


def _explain(error: Any, where: Any, raw: dict[str, Any]) -> str:
    known = error["type"] != "extra_forbidden"  # else its last part is a name of the user's, whatever it looks like
    loc = tuple(part for part in error["loc"][: None if known else -1] if not _is_union_branch(part))
    loc += () if known else error["loc"][-1:]
    place = f"{where(loc)}: " if where else ""
    dotted = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        return f"{place}unknown key {_cut(dotted)!r}" + suggest(_cut(str(loc[-1])), _fields_at(loc[:-1], raw))
    if error["type"] == "missing":
        return f"{place}missing key {_cut(dotted)!r}: add it to the job"
    secret = any(is_secret_name(str(part)) for part in loc)
    # Cut last: half a secret is not found.
    got = "it is not shown" if secret else f"got {_shown.repr(clean(error['input']))}"
    return f"{place}{_cut(dotted)}: {error['msg']} ({got})"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _is_union_branch(part: Any) -> bool:
    """Tell pydantic's name of a union's branch, which is no key of the file, from a key."""
    return part in ("int", "str", "literal['auto']") or (
        isinstance(part, str) and ("constrained-" in part or "[" in part)
    )


def _fields_at(loc: tuple[Any, ...], raw: dict[str, Any]) -> list[str]:
    part: Any = JobConfig
    names = iter(loc)
    for name in names:
        part = part.model_fields[name].annotation
        if get_origin(part) is dict:
            part = get_args(part)[1]
            next(names, None)  # the name that the user gave to this entry
    settings = settings_of(str(raw["model"].get("family"))) if part is ModelConfig else None
    fields = {**part.model_fields, **(settings.model_fields if settings else {})}
    return [field.alias or name for name, field in fields.items()]


def _overridden(overrides: tuple[str, ...], loc: tuple[Any, ...]) -> str | None:
    """Return the `--set` that brought the value at `loc`, if one did."""
    dotted = ".".join(str(part) for part in loc)
    return next((f"--set {o}" for o in overrides if f"{dotted}.".startswith(f"{o.partition('=')[0]}.")), None)


def _line(node: Any, loc: tuple[Any, ...]) -> int:
    """Return the 1-based line of the deepest part of `loc` present in the YAML node."""
    line: int = node.start_mark.line if node else 0
    for name in loc:
        if not isinstance(node, yaml.MappingNode):
            break
        found = next(((k, v) for k, v in node.value if k.value == str(name)), None)
        if found is None:
            break
        line, node = found[0].start_mark.line, found[1]
    return line + 1


def job_schema() -> dict[str, Any]:
    """Return the JSON Schema of a job file; under `model` are the settings of every family that is installed."""
    schema = JobConfig.model_json_schema()
    model = schema["$defs"]["ModelConfig"]
    for name in FAMILY_SETTINGS.names():
        settings = FAMILY_SETTINGS.get(name).settings.model_json_schema()
        model["properties"] |= settings.get("properties", {})
        schema["$defs"] |= settings.get("$defs", {})
    model["additionalProperties"] = False
    model["properties"]["family"]["examples"] = FAMILY_SETTINGS.names()
    return {**schema, "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "optinfer job"}
