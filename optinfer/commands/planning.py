"""A job's plan and identity: everything that can be refused before anything heavy is imported or written."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from optinfer import plugins
from optinfer.config import AUTO, JobConfig
from optinfer.data.account import Accounts, index_of
from optinfer.data.binding import fingerprint
from optinfer.data.carrying import require_carried
from optinfer.data.fragments import Plan, rows_for_model
from optinfer.data.lock import holder, is_live
from optinfer.data.output import Output
from optinfer.data.places import require_apart
from optinfer.data.source import plan_source
from optinfer.data.storage import STATE, absolute
from optinfer.errors import ConfigError, redact
from optinfer.execution.placement import Node
from optinfer.forecast.estimate import before_run, last_measured, placed
from optinfer.models import source as model_source
from optinfer.models.artifact import Artifact
from optinfer.optimization.gate import metric_of
from optinfer.optimization.mixed import cpu_recipes
from optinfer.optimization.selection import Prepared, recipes
from optinfer.optimization.variants import Variant, catalog, get
from optinfer.optimization.workbench import family_settings, load_family
from optinfer.system.machine import nvidia_gpus


@dataclass(frozen=True)
class Planned:
    """A job ready to run: its table cut, its model found, its identity computed.

    Attributes:
        model: the model, on this machine.
        carried: the source columns in the output.
        schema: all columns of the output.
        fields: what the fingerprint is made of, readable, so that a difference can be named.
    """

    config: JobConfig
    plan: Plan
    model: Artifact
    carried: pa.Schema
    schema: pa.Schema
    fields: dict[str, Any]

    @property
    def params(self) -> dict[str, Any]:
        """Describe job, model and data for a tracker."""
        return {
            "job": self.config.name,
            "family": self.config.model.family,
            "model.path": redact(self.config.model.path),
            "model.digest": self.model.key,
            "data.digest": self.fields["source"]["files"],
        }

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.fields)


def plan_job(config: JobConfig) -> Planned:
    """Find the model, cut the table, check columns and variant names; write nothing.

    Raises:
        ConfigError: the job cannot work; says what to change.
        SourceError: an input file cannot be read.
        UnavailableError: the variant cannot run on this machine.
    """
    require_apart(config.source.path, config.sink.path)
    family_settings(config)
    recipes(config)  # what cannot run here is refused before a model is fetched
    cpu_recipes(config)
    model = model_source.locate(config.model, config.tracking.uri)
    family = load_family(config, model)
    _check_roles(config, family.roles)
    metric_of(config.gate, family.metrics)
    variants, second = recipes(config, model.format), cpu_recipes(config, model.format)
    needed = [*config.source.columns_read, *config.sink.columns, *([config.gate.label] if config.gate.label else [])]
    wanted_rows = rows_for_model(plugins.load("families", config.model.family).FRAGMENT_ROWS, model.size_bytes)
    plan = plan_source(config.source, list(dict.fromkeys(needed)), wanted_rows)
    family.check(plan.schema, config.source.columns)
    carried = pa.schema([plan.schema.field(name) for name in config.sink.columns])
    require_carried(carried)
    _check_sink(config, family.schema.names)
    fields = {
        "source": {
            "path": redact(absolute(config.source.path)),
            "files": _digest([asdict(f) for f in plan.files]),
            "rows": plan.rows,
            "columns": config.source.columns,
            "fragments": plan.fragments.digest(),
            "bad_files": [redact(path) for path, _ in plan.bad_files],
        },
        "model": {"digest": model.key, "family": config.model.family, **family_settings(config)},
        "variant": variants,
        "batching": config.batching.model_dump(),
        "sink": {"columns": list(config.sink.columns)},
        **({"cpu_variant": second} if second else {}),
    }
    return Planned(config, plan, model, carried, pa.schema([*carried, *family.schema]), fields)


def preview(planned: Planned) -> dict[str, Any]:
    """Describe what `run` would do with this machine's CPUs and GPUs; imports nothing heavy and writes nothing."""
    config, plan = planned.config, planned.plan
    chosen = None if config.variant == AUTO else get(config.variant, catalog(config))
    wished = config.placement.device
    device = chosen.device if chosen else "cpu" if wished == AUTO else wished
    here = Node(os.cpu_count() or 1, nvidia_gpus(), memory_mb=psutil.virtual_memory().available / 1e6)
    output = Output(config.sink.path)
    left, said = _left(planned, output)
    warnings = [*plan.warnings, *said]
    todo, rows = int(left.sum()), int((plan.fragments.stop - plan.fragments.start)[left].sum())
    measured = last_measured(planned)
    device = measured.variant.device if measured else device
    placement = placed(planned, measured, device, [here], max(todo, 1))
    return {
        "job": config.name,
        "rows": plan.rows,
        "files": len(plan.files),
        "fragments": len(plan.fragments),
        "to_score": todo,
        "model": f"{redact(config.model.path)} ({planned.model.key})",
        "variant": _variant_line(chosen or (measured.variant if measured else None), automatic=chosen is None),
        **_cpu_variant(config, measured, device),
        "output": f"{output.shown}: {', '.join(f'{f.name} {f.type}' for f in planned.schema)}",
        "fingerprint": planned.fingerprint,
        "placement": placement.as_dict(),
        "forecast": before_run(planned, measured, placement, rows).as_dict(),
        "warnings": warnings,
    }


def _left(planned: Planned, output: Output) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Return a (fragments,) mask of what is to score, and what a person should know of the output."""
    count, job = len(planned.plan.fragments), output.job()
    left = np.ones(count, dtype=bool)
    if job and job["fingerprint"] != planned.fingerprint:
        left[[i for i in map(index_of, output.committed()) if i < count]] = False
        return left, [f"{output.shown} belongs to another job: `run` would refuse (exit 5)"]
    there, wrong = output.intact(Accounts(output.folder, planned.fingerprint), count)
    left[: len(there)] = ~there[:count]
    return left, [f"{output.shown} is not as it was written: {line}" for line in wrong]


def _cpu_variant(config: JobConfig, measured: Prepared | None, device: str) -> dict[str, str]:
    """Describe the job's second variant; nothing where it has none."""
    name = config.placement.cpu_variant
    if name is None:
        return {}
    if device != "cuda":
        return {"cpu_variant": f"{name}: left out where the variant runs on CPUs itself"}
    second = measured.beside.variant if measured and measured.beside else None
    chosen = get(name, catalog(config)) if name != AUTO else second
    return {"cpu_variant": _variant_line(chosen, automatic=name == AUTO)}


def _variant_line(chosen: Variant | None, automatic: bool) -> str:
    if chosen is None:
        return "auto: the fastest that passes the gate"
    line = f"{chosen.name}: {chosen.techniques}, {chosen.backend}"
    return f"auto, the fastest that passes as far as is measured: {line}" if automatic else line


def status(url: str) -> dict[str, Any]:
    """Describe an output folder.

    Raises:
        ConfigError: no optinfer job writes there.
    """
    output = Output(url)
    job = output.job()
    if job is None:
        if output.folder.read(f"{STATE}/job.json") is not None:
            raise ConfigError(
                f"{output.shown}/{STATE}/job.json cannot be read; `optinfer run` with the job makes it anew"
            )
        raise ConfigError(f"{output.shown} is not the output of an optinfer job; give the job's sink.path")
    held = holder(output.folder)
    live = held is not None and is_live(held, time.time())
    manifest = output.manifest()
    total = output.planned_fragments()
    planned = total or 0
    there, damage = output.intact(Accounts(output.folder, job["fingerprint"]), planned)
    damage += () if total is not None else (f"{STATE}/plan.parquet is missing, or cannot be read",)
    if manifest is None and output.folder.read("_SUCCESS") is not None and not live:
        damage += ("_SUCCESS is there, and _manifest.json is missing, or cannot be read",)
    return {
        "output": output.shown,
        "state": "running" if live else "damaged" if damage else "done" if manifest else "interrupted",
        "fingerprint": job["fingerprint"],
        "fragments": total,
        "fragments_committed": int(there[:planned].sum()),  # an empty table has a part and no fragment
        "rows": job["fields"].get("source", {}).get("rows"),
        "quarantine_files": len(output.folder.names(under="_quarantine")),
        "run_id": manifest["run"].get("run_id") if manifest else None,
        "holder": f"process {held['pid']} on {held['host']}" if held and live else None,
        "damage": list(damage),
    }


def _check_roles(config: JobConfig, roles: tuple[str, ...]) -> None:
    needs = f"{config.model.family} needs {', '.join(roles)}"
    if missing := [role for role in roles if role not in config.source.columns]:
        raise ConfigError(f"source.columns lacks {missing[0]!r}: {needs}; add `{missing[0]}: <a source column>`")
    if unknown := [role for role in config.source.columns if role not in roles]:
        raise ConfigError(f"source.columns has {unknown[0]!r}: {needs}; other columns to keep go into sink.columns")


def _check_sink(config: JobConfig, gained: list[str]) -> None:
    columns = config.sink.columns
    added = {name.casefold() for name in gained}  # DuckDB and Spark do not tell `Label` from `label`
    if clash := sorted({name for name in columns if name.casefold() in added}):
        raise ConfigError(f"sink.columns {clash} has the name of a column the model adds; leave it out")
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise ConfigError(f"sink.columns names {twice} twice; name each column once")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
