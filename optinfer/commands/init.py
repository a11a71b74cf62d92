"""init(table, model, path): a job file with all that a table and a model say of themselves, and why it is so.

Nothing is guessed that could be otherwise: what cannot be told is named with the candidates and the option that says
it. The job is resolved as `plan` does it before its file is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from optinfer.commands.resolved import resolve
from optinfer.commands.table_look import LABELS, Look, ids, look, mapped
from optinfer.config import JobConfig
from optinfer.errors import ConfigError, OptinferError, redact
from optinfer.families import FAMILIES, Columns, Family
from optinfer.job_file import apply, parse_job
from optinfer.models.source import locate
from optinfer.optimization.subject import load_family
from optinfer.records.draft import Draft, Finding
from optinfer.system import atomic

Raw = dict[str, Any]
_ORDER = ("name", "source", "model", "variant", "gate", "sink")


def init(table: str, model: str, path: str = "job.yaml", answers: Sequence[str] = ()) -> Draft:
    """Write a job that scores a table with a model.

    Args:
        table: `source.path` of the job.
        model: `model.path` of the job.
        path: the job file; it is new.
        answers: `a.b=value`, as `--set` has them: these are not asked of the table or the model.

    Raises:
        ConfigError: something cannot be told, the job cannot work, or there is such a file.
    """
    target = Path(path)
    _require_new(target)
    raw: Raw = {"source": {"path": table}, "model": {"path": model}}
    for answer in answers:
        apply(raw, answer)
    findings: list[Finding] = []
    raw.setdefault("name", _name(table))
    raw.setdefault("variant", "auto")
    raw.setdefault("sink", {}).setdefault("path", f"outputs/{raw['name']}")
    config, family = _family(raw, findings)
    if family.advised:
        config, family = _advised(raw, family, findings)
    seen = look(config.source)
    columns = _source(raw, family, seen, findings)
    _sink(raw, family, seen, columns, findings)
    _gate(raw, family, seen, findings)
    resolved = resolve(parse_job(raw))
    try:
        atomic.put(target, _text(raw, findings, path).encode(), name=atomic.name_new)
    except FileExistsError:
        _require_new(target)
        raise
    return Draft(job=str(target), rows=resolved.plan.rows, findings=tuple(findings))


def _require_new(target: Path) -> None:
    if target.exists():
        raise ConfigError(f"{target} exists, and nothing is overwritten; name another file with -o")


def _name(table: str) -> str:
    """Return a job's name: the table's, without what a name may not hold."""
    stem = redact(table).rstrip("/*").rpartition("/")[2].partition(".")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "job"


def _family(raw: Raw, findings: list[Finding]) -> tuple[JobConfig, Family]:
    """Find the family that takes the model, unless it is said.

    Raises:
        ConfigError: none does, or several that are equally near.
    """
    if "family" in raw["model"]:
        return _loaded(raw, raw["model"]["family"])
    fitting: dict[str, tuple[JobConfig, Family]] = {}
    refused: dict[str, str] = {}
    for name in FAMILIES.names():
        try:
            fitting[name] = _loaded(raw, name)
        except OptinferError as error:
            refused[name] = str(error)
    if not fitting:
        reasons = "\n".join(f"  {name}: {why}" for name, why in refused.items())
        raise ConfigError(f"no family takes {redact(raw['model']['path'])}; say --set model.family=...\n{reasons}")
    nearest = min(_distance(family) for _, family in fitting.values())
    first, *others = (name for name, (_, family) in fitting.items() if _distance(family) == nearest)
    if others:
        raise ConfigError(f"families {', '.join([first, *others])} take the model; say --set model.family={first}, say")
    raw["model"]["family"] = first
    also = ", ".join(name for name in fitting if name != first)
    why = "its files are such a model's" + (f" ({also} would take it, too)" if also else "")
    findings.append(Finding(key="model.family", value=first, why=why))
    return fitting[first]


def _advised(raw: Raw, family: Family, findings: list[Finding]) -> tuple[JobConfig, Family]:
    """Say of the model what its family advises."""
    for key, (value, why) in family.advised.items():
        raw["model"][key] = value
        findings.append(Finding(key=f"model.{key}", value=value, why=why))
    return _loaded(raw, raw["model"]["family"])


def _loaded(raw: Raw, family: str) -> tuple[JobConfig, Family]:
    config = parse_job({**raw, "model": {**raw["model"], "family": family}})
    model = locate(config.model, config.tracking.uri)
    return config, load_family(config, model, config.model.settings)


def _distance(family: Family) -> tuple[bool, bool]:
    """Return how little a family knows of its model: the one that knows its classes, or what its inputs mean, is it."""
    return family.classes is None, family.roles == family.inputs


def _source(raw: Raw, family: Family, seen: Look, findings: list[Finding]) -> Columns:
    """Map the model's inputs; those that a job finds by name are left out. Returns all of them."""
    given = raw["source"].setdefault("columns", {})
    columns, why = mapped(family, seen, {role: _plain(columns) for role, columns in given.items()})
    known = FAMILIES.get(raw["model"]["family"]).roles_are_columns
    said = {role: list(c) if isinstance(c, tuple) else c for role, c in columns.items() if not known or role != c}
    if set(given) != set(columns):
        findings.append(Finding(key="source.columns", value=said, why=why))
    if said:
        raw["source"]["columns"] = said
    else:
        del raw["source"]["columns"]
    return columns


def _plain(columns: Any) -> str | tuple[str, ...]:
    return columns if isinstance(columns, str) else tuple(columns)


def _sink(raw: Raw, family: Family, seen: Look, columns: Columns, findings: list[Finding]) -> None:
    if "columns" in raw["sink"]:
        return
    used = {name for given in columns.values() for name in ([given] if isinstance(given, str) else given)}
    found, why = ids(seen, used, {name.casefold() for name in family.schema.names})
    raw["sink"]["columns"] = found
    findings.append(Finding(key="sink.columns", value=found, why=why))


def _gate(raw: Raw, family: Family, seen: Look, findings: list[Finding]) -> None:
    """Judge variants by true answers where a column holds such."""
    if "gate" in raw or family.classes is None:
        return
    for name in filter(LABELS.fullmatch, seen.sample.column_names):
        values = set(seen.sample.column(name).drop_null().to_pylist())
        if values and values <= set(family.classes):
            raw["gate"] = {"label": name, "metric": "accuracy"}
            why = f"in the first {seen.sample.num_rows:,} rows it holds classes of the model only"
            findings.append(Finding(key="gate.label", value=name, why=why))
            return


def _text(raw: Raw, findings: list[Finding], path: str) -> str:
    """Return the job file: each section under what was found out of it."""
    lines = [
        f"# Written by `optinfer init`; `optinfer plan {path}` shows what it would do, `optinfer run {path}` does it."
    ]
    for section in (*(key for key in _ORDER if key in raw), *(key for key in raw if key not in _ORDER)):
        lines += [f"# {one.key}: {one.why}" for one in findings if one.key.partition(".")[0] == section]
        if section == "variant" and raw["variant"] == "auto":
            lines.append(
                "# variant: the fastest that passes the gate is found; a name from `optinfer variants` skips that"
            )
        lines.append(yaml.safe_dump({section: raw[section]}, sort_keys=False, allow_unicode=True, width=120).rstrip())
    return "\n".join(lines) + "\n"
