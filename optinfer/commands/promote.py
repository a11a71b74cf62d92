"""promote(config, ...): an alias moves to the challenger's version where the job's rule holds of a comparison.

Whatever is not as it was compared moves nothing: an alias that is elsewhere by now, a version that was registered anew,
a comparison of other models.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from optinfer.commands.compare import compare
from optinfer.config import JobConfig
from optinfer.errors import ConfigError, redact, without_secrets
from optinfer.models.registered import client, named
from optinfer.monitoring.rule import clauses
from optinfer.records.decision import CompareRecord
from optinfer.records.promotion import Clause, PromoteRecord, Status
from optinfer.records.record import decoded
from optinfer.registry.alias import Move, RegisteredAliases, tag
from optinfer.system import home
from optinfer.tracking.mlflow_store import bound

if TYPE_CHECKING:
    from optinfer.records.model_version import ModelVersion

_RUN = "runs:/"
_RECORD = "record.json"


def promote(
    config: JobConfig,
    challenger: str,
    by: Sequence[str] = (),
    rows: int | None = 2000,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> PromoteRecord:
    """Compare a job's model with a challenger, and move the alias where the rule of the job holds.

    Args:
        challenger: a version of the same registered model: `models:/NAME@ALIAS`, `models:/NAME/3`.
        by: source columns by whose values the rows are looked at apart, too.
        rows: how many are compared; None takes all.
        dry_run: nothing is moved.

    Raises:
        ConfigError: the job names no rule, or one of the two is no version of the registered model.
        AliasMovedError: the alias is elsewhere by the time that the comparison is done.
    """
    _require_a_rule(config)
    aliases = _aliases(config)
    if named(challenger) != named(config.model.path):
        raise ConfigError(
            f"--challenger {redact(challenger)} is no version of the registered model {named(config.model.path)}; "
            "register it there and name it as models:/NAME@ALIAS"
        )
    aliases.at(config.promote.alias)
    margin = config.promote.when.difference.not_worse_by
    record = compare(config, challenger, by, 0.0 if margin is None else margin, rows, say)
    return promote_compared(config, record, dry_run)


def promote_compared(config: JobConfig, compared: CompareRecord, dry_run: bool = False) -> PromoteRecord:
    """Move the alias where the rule of a job holds of a comparison that `compare` made.

    Raises:
        ConfigError: the job names no rule, or the comparison is not of two versions of its registered model.
        AliasMovedError: the alias is not at the version that the challenger was compared with.
    """
    _require_a_rule(config)
    aliases, wanted = _aliases(config), config.promote
    champion, challenger = _versions(config, compared)
    for version in (champion, challenger):
        aliases.require(version)
    before, after = champion.version, challenger.version
    if aliases.at(wanted.alias) == after:
        return _record(config, "nothing to do", before, after, "it was moved before")
    aliases.require_at(wanted.alias, before)
    found = (*_not_rolled_back(config, aliases, after), *clauses(wanted.when, compared))
    why = "; ".join(f"{one.rule}: {one.found}" for one in found)
    if not all(one.holds for one in found):
        status: Status = "refused"
    else:
        status = "would promote" if dry_run else "promoted"
    if status == "promoted":
        at = _now()
        line = f"since {at}, over version {before}: {why} (comparison {compared.run_id})"
        told = {"over": before, "why": why, "compared": compared.run_id, "at": at}
        aliases.move(
            Move(alias=wanted.alias, previous=wanted.previous, before=before, after=after, told=told, line=line)
        )
    record = _record(config, status, before, after, compared.reason)
    return PromoteRecord(**{**vars(record), "clauses": found, "compared": compared.run_id})


def _not_rolled_back(config: JobConfig, aliases: RegisteredAliases, version: str) -> tuple[Clause, ...]:
    """Return what keeps a version from coming back by itself that somebody took back: whoever did knew why."""
    alias = config.promote.alias
    if (at := aliases.tags(version, alias).get("rolled_back")) is None:
        return ()
    found = f"rolled back at {at}; to let it come back remove its tag {tag(alias, 'rolled_back')}"
    return (Clause(rule="never rolled back", found=found, holds=False),)


def roll_back(config: JobConfig, dry_run: bool = False) -> PromoteRecord:
    """Move the alias back to where the last promotion moved it from; only that is ever undone.

    Raises:
        ConfigError: there is nothing to go back to.
        AliasMovedError: the alias is not where that promotion moved it.
    """
    aliases, wanted = _aliases(config), config.promote
    before, after = aliases.at(wanted.alias), aliases.at(wanted.previous)
    over = aliases.tags(before, wanted.alias).get("over")
    if over != after:
        was = f"version {before} took the place of version {over}" if over else f"nothing promoted version {before}"
        raise ConfigError(
            f"{named(config.model.path)}@{wanted.alias} cannot be rolled back: {was}, and {wanted.previous} is at "
            f"version {after}; set the alias in MLflow"
        )
    reason = f"version {before} took the place of version {after}"
    if not dry_run:
        at = _now()
        line = f"until {at}, rolled back to version {after}"
        told = {"rolled_back": at, "rolled_back_to": after}
        move = Move(
            alias=wanted.alias, previous=wanted.previous, before=before, after=after, told=told, line=line, back=True
        )
        aliases.move(move)
    return _record(config, "would roll back" if dry_run else "rolled back", before, after, reason)


def read_comparison(source: str, config: JobConfig) -> CompareRecord:
    """Return the comparison that a file (`compare --json`) or an MLflow run (`runs:/ID`) holds.

    Raises:
        ConfigError: there is none.
    """
    try:
        text = _of_a_run(source, config) if source.startswith(_RUN) else Path(source).read_text(encoding="utf-8")
        return decoded(CompareRecord, json.loads(text))
    except (OSError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise ConfigError(
            f"--compared {redact(source)} holds no comparison ({type(error).__name__}: {said}); give the object that "
            "`optinfer compare --json` printed, or runs:/ID of its MLflow run"
        ) from error


def _of_a_run(source: str, config: JobConfig) -> str:
    bound()
    tracking = config.tracking.uri or home.default_tracking_uri()
    try:
        with tempfile.TemporaryDirectory(prefix="optinfer-promote-") as folder:
            run_id = source.removeprefix(_RUN).strip("/")
            return Path(client(tracking).download_artifacts(run_id, _RECORD, folder)).read_text(encoding="utf-8")
    except Exception as error:
        raise ValueError(without_secrets(tracking, str(error))) from error


def _versions(config: JobConfig, compared: CompareRecord) -> tuple[ModelVersion, ModelVersion]:
    """Return champion and challenger of a comparison that may move the alias of a job's model.

    Raises:
        ConfigError: it is another job's, or one of the two is no version of that model.
    """
    model = named(config.model.path)
    if compared.job != config.name:
        raise ConfigError(f"the comparison is of the job {compared.job}, not of {config.name}; compare with this job")
    found = []
    for role, side in (("champion", compared.champion), ("challenger", compared.challenger)):
        if side.version is None or side.version.name != model:
            what = "no version of a registered model" if side.version is None else side.version.uri
            raise ConfigError(
                f"the comparison's {role} is {what} ({side.name}), and only versions of {model} can have its alias; "
                f"compare models:/{model}@… with models:/{model}@…"
            )
        found.append(side.version)
    if found[0].version == found[1].version:
        raise ConfigError(
            f"the comparison is of two variants of {found[0].uri}, which both have its alias; name the variant in the "
            "job, or compare with another version"
        )
    return found[0], found[1]


def _aliases(config: JobConfig) -> RegisteredAliases:
    model = named(config.model.path)
    if not model:
        raise ConfigError(
            f"model.path {redact(config.model.path)} is no registered model, and only these have aliases; register it "
            f"and write models:/NAME@{config.promote.alias}"
        )
    return RegisteredAliases(model, config.tracking.uri or home.default_tracking_uri())


def _require_a_rule(config: JobConfig) -> None:
    when = config.promote.when
    if all(value is None for part in (when.difference, when.slices, when.cost) for value in vars(part).values()):
        raise ConfigError(
            "promote.when names no rule, and nothing is moved without one; add, for example, "
            "`promote: {when: {difference: {not_worse_by: 0.005}}}`"
        )


def _record(config: JobConfig, status: Status, before: str, after: str, reason: str) -> PromoteRecord:
    return PromoteRecord(
        status=status,
        model=named(config.model.path),
        alias=config.promote.alias,
        before=before,
        after=after,
        previous=config.promote.previous,
        reason=reason,
        registry=redact(config.tracking.uri or home.default_tracking_uri()),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
