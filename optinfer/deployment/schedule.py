"""schedule(job, wanted): files with which another system starts a job every night.

Whatever can be refused is refused here, before a file is written: a night that does not start is noticed in the
morning.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from optinfer.config import JobConfig
from optinfer.deployment import asked
from optinfer.deployment.cron import Cron
from optinfer.deployment.rayjob import kubernetes_name
from optinfer.deployment.targets import TARGETS, Options, Schedule, Target
from optinfer.errors import ConfigError, redact
from optinfer.job_file import load_job, written_paths
from optinfer.records.record import Record
from optinfer.system import atomic, dates

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_TICKS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a caller asks for; `name` is `optinfer-` and the job's where None."""

    cron: str
    timezone: str
    target: str
    out: str
    name: str | None = None
    overrides: tuple[str, ...] = ()
    options: Options = field(default_factory=Options)
    force: bool = False


@dataclass(frozen=True)
class Rendered(Record):
    """What was written, and what a person should know of it."""

    name: str
    target: str
    files: tuple[str, ...]
    next_ticks: tuple[str, ...]
    then: tuple[str, ...]
    warnings: tuple[str, ...]


def schedule(job: str, wanted: Wanted, now: datetime | None = None) -> Rendered:
    """Render a job's schedule into a folder.

    Args:
        now: moment from which the next night is counted; the present where None.

    Raises:
        ConfigError: it could not work, or files there would be overwritten; nothing is written.
    """
    now = now or datetime.now(UTC)
    cron, target = Cron.read(wanted.cron, wanted.timezone), TARGETS.get(wanted.target)
    _require_options(wanted, target)
    today = load_job(job, wanted.overrides)
    _require_dated_sink(job, wanted.overrides)
    default = kubernetes_name(f"optinfer-{today.name}", longest=len(f"optinfer-{today.name}"))
    name = _name(wanted.name or default, wanted.target, target.longest_name)
    night = cron.next_night(now)
    plan = Schedule(
        name=name,
        job=Path(job).absolute(),
        folder=Path.cwd(),
        config=load_job(job, wanted.overrides, night),
        night=night.isoformat(),
        overrides=wanted.overrides,
        cron=cron,
        options=wanted.options,
        out=Path(wanted.out).absolute(),
    )
    if target.in_pods:
        _require_reachable(plan.config)
    told = [plan.job.read_text(encoding="utf-8"), *wanted.overrides, wanted.options.address or ""]
    asked.require_no_secret("a schedule", told)
    files = target.render(plan)
    _write(plan.out, files, wanted.force)
    return Rendered(
        name=name,
        target=wanted.target,
        files=tuple(str(plan.out / file) for file in files),
        next_ticks=tuple(tick.isoformat(" ", "minutes") for tick in islice(cron.after(now), _TICKS_SHOWN)),
        then=target.then(plan),
        warnings=(*target.warnings, *_warnings(cron, now)),
    )


def _require_options(wanted: Wanted, target: Target) -> None:
    given = {name for name, value in dataclasses.asdict(wanted.options).items() if value is not None}
    for name in sorted(given - set(target.takes)):
        others = [other for other in TARGETS.names() if name in TARGETS.get(other).takes]
        raise ConfigError(
            f"--{name} has no use with --target {wanted.target}; leave it out, or choose one of {', '.join(others)}"
        )
    for name in target.needs:
        if name not in given:
            raise ConfigError(f"--target {wanted.target} needs --{name}; see docs/schedule.md")


def _require_dated_sink(job: str, overrides: tuple[str, ...]) -> None:
    sink = written_paths(job, overrides)[-1]
    if not dates.has_dates(sink):
        raise ConfigError(
            f"sink.path {redact(sink)} is the same every night, and no job writes into another night's output; put "
            f'{{date}} into it, as in "{redact(sink).rstrip("/")}/{{date}}"'
        )


def _name(name: str, target: str, longest: int) -> str:
    if not _LABEL.fullmatch(name):
        raise ConfigError(
            f"--name {name!r} is no DNS-1035 label: lower-case letters, digits and dashes, a letter first, no dash last"
        )
    if len(name) > longest:
        raise ConfigError(
            f"the name {name!r} has {len(name)} characters, and --target {target} takes {longest} at most; give a "
            "shorter one with --name"
        )
    return name


def _require_reachable(config: JobConfig) -> None:
    """Refuse paths that mean something on this machine only."""
    for key, path in (
        ("source.path", config.source.path),
        ("sink.path", config.sink.path),
        *((key, model.path) for key, model in config.models.items()),
    ):
        if not re.match(r"/|[a-z0-9+]{2,}:", path):
            raise ConfigError(
                f"{key} {path} is relative to a folder of this machine, and pods have none of its files; give a URL as "
                "in s3://bucket/folder, or the full path of a volume or of the image"
            )


def _warnings(cron: Cron, now: datetime) -> list[str]:
    found = []
    if cron.shares_a_day(now):
        found.append("several ticks a day are for the same {date}: one that meets the day's output done does nothing")
    if odd := cron.odd_nights(now):
        more = f" and {len(odd) - 2} more" if len(odd) > 2 else ""
        found.append(
            f"in {cron.zone} {', '.join(odd[:2])}{more}, as clocks are put on or back: the job may not start then, or "
            "twice (which is harmless); choose an hour that every night has once, or catch the night up"
        )
    return found


def _write(folder: Path, files: Mapping[str, str], force: bool) -> None:
    """Write all files or, where one would be lost, none."""
    differ = [name for name, text in files.items() if _there(folder / name) not in (None, text.encode())]
    if differ and not force:
        raise ConfigError(
            f"{', '.join(str(folder / name) for name in differ)} differ{'s' * (len(differ) == 1)} from what would be "
            "written; --force overwrites, another --out keeps both"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            atomic.put(folder / name, text.encode(), folder)
            if name.endswith(".sh"):
                (folder / name).chmod(0o755)
    except OSError as error:
        raise ConfigError(f"cannot write into {folder}: {error.strerror or error}; choose another --out") from error


def _there(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}; choose another --out") from error
