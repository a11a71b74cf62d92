"""The job, as frozen values validated once at the edge; below everything that uses it.

`load_job` reads the YAML and points at file and line when something is wrong. See docs/jobs.md for every field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from optinfer.errors import ConfigError, suggest

AUTO: Literal["auto"] = "auto"
Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class SourceConfig(_Part):
    """The table: a Parquet file, a folder (hive-partitioned or not) or a glob, local or any fsspec URL."""

    path: str
    columns: dict[str, str] = Field(default_factory=dict, description="what the family needs <- source column")
    fragment_rows: PositiveInt | Auto = Field("auto", description="most rows in a fragment")
    fragment_mb: Annotated[float, Field(gt=0)] = Field(
        64.0, description="most megabytes (uncompressed, needed columns) in a fragment"
    )
    limit: PositiveInt | None = Field(None, description="score only the first rows")
    on_bad_file: Literal["raise", "quarantine"] = Field(
        "raise", description="a file that cannot be read: stop, or leave it out and name it in the manifest"
    )


class ModelConfig(_Part):
    """The model: a folder, `package:<python package>/<folder inside it>`."""

    path: str
    family: str
    max_length: PositiveInt | None = Field(None, description="tokens kept of each text; default: what the model says")


class GateConfig(_Part):
    """The quality a variant must keep against the fp32 baseline on a sample of the job's own rows."""

    metric: str = "cosine"
    min: float = 0.99
    sample_rows: Annotated[int, Field(ge=8)] = 512
    require_batch_invariance: bool | Auto = Field(
        "auto", description="refuse a variant whose answers depend on the batch; auto: where optinfer chooses it"
    )
    fallback: str | None = Field(None, description="variant that scores the rows when the named one fails")


class SelectionConfig(_Part):
    """How `variant: auto` chooses."""

    time_budget: Annotated[float, Field(gt=0)] = Field(
        1800.0, description="seconds after which no further candidate is built and certified"
    )


class PlacementConfig(_Part):
    """How many replicas, and what each gets."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    replicas: PositiveInt | Auto = "auto"
    threads_per_replica: PositiveInt | Auto = "auto"
    gpus_per_replica: Annotated[float, Field(gt=0)] = 1.0


class BatchingConfig(_Part):
    """How rows become micro-batches."""

    max_batch_tokens: PositiveInt | Auto = "auto"
    max_batch_size: PositiveInt = 64


class SinkConfig(_Part):
    """Where the scored rows go, and what happens to those that cannot be scored."""

    path: str
    columns: tuple[str, ...] = Field((), description="source columns carried unchanged")
    on_error: Literal["quarantine", "raise"] = "quarantine"
    error_threshold: float = Field(0.01, ge=0, description="a fraction below 1, or a row count")


class TrackingConfig(_Part):
    """The MLflow experiment."""

    experiment: str = "optinfer"
    uri: str | None = Field(None, description="default: $MLFLOW_TRACKING_URI, else a SQLite file in $OPTINFER_HOME")


class JobConfig(_Part):
    """One job: the whole of it, frozen."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    source: SourceConfig
    model: ModelConfig
    variant: str
    gate: GateConfig = GateConfig()
    selection: SelectionConfig = SelectionConfig()
    placement: PlacementConfig = PlacementConfig()
    batching: BatchingConfig = BatchingConfig()
    sink: SinkConfig
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _no_idle_fallback(self) -> JobConfig:
        if self.variant == AUTO and self.gate.fallback:
            raise ValueError("gate.fallback has no use with variant: auto, which ends at the baseline; remove one")
        return self

    @field_validator("variant")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("name a variant (see `optinfer variants`)")
        return value


def load_job(path: str | Path, overrides: tuple[str, ...] = ()) -> JobConfig:
    """Read a job YAML and apply `--set a.b=value` overrides (values are YAML, too).

    Raises:
        ConfigError: the file cannot be read, is not YAML, or a key or value is wrong; names file and line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the job file {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); is it a job file?"
        ) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a job is a mapping with the keys {', '.join(JobConfig.model_fields)}")
    for override in overrides:
        _apply(raw, override)
    return parse_job(raw, where=lambda loc: _overridden(overrides, loc) or f"{path}:{_line(node, loc)}")


def parse_job(raw: dict[str, Any], where: Any = None) -> JobConfig:
    """Validate a plain mapping; `where` turns an error's location into `file:line`."""
    try:
        return JobConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(e, where) for e in error.errors())) from None


def _apply(raw: dict[str, Any], override: str) -> None:
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {override!r}: write it as a.b=value, for example --set source.limit=1000")
    *parents, leaf = dotted.split(".")
    target = raw
    for name in parents:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {override!r}: {name!r} is a value, not a section, in the job file")
    try:
        target[leaf] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML: {error}") from error


def _explain(error: Any, where: Any) -> str:
    loc = tuple(part for part in error["loc"] if part not in ("int", "literal['auto']", "constrained-int"))
    place = f"{where(loc)}: " if where else ""
    dotted = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        return f"{place}unknown key {dotted!r}" + suggest(str(loc[-1]), _fields_at(loc[:-1]))
    if error["type"] == "missing":
        return f"{place}missing key {dotted!r}: add it to the job"
    return f"{place}{dotted}: {error['msg']} (got {error['input']!r})"


def _fields_at(loc: tuple[Any, ...]) -> list[str]:
    part: Any = JobConfig
    for name in loc:
        part = part.model_fields[name].annotation
        if get_origin(part) is not None:
            part = next(a for a in get_args(part) if isinstance(a, type) and issubclass(a, BaseModel))
    return list(part.model_fields)


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
