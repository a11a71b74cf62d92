"""The job, as frozen values validated once at the edge; below everything that uses it.

`load_job` reads the YAML and points at file and line when something is wrong. See docs/jobs.md for every field.
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from optinfer.errors import ConfigError, suggest
from optinfer.system import yaml_file

AUTO: Literal["auto"] = "auto"
Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(ge=1)]


def _a_place(path: str) -> str:
    """Refuse no path at all, which would mean the folder that the command was started in."""
    if not path.strip() or "\0" in path:
        raise ValueError("give a path or a URL")
    return path


PathText = Annotated[str, AfterValidator(_a_place)]

# YAML's aliases make values out of a few lines that would fill the memory when written out.
_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 200
_shown.maxlevel = 2


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class SourceConfig(_Part):
    """The table: a Parquet file, a folder (hive-partitioned or not) or a glob, or another kind's; any fsspec URL."""

    path: PathText
    format: str = Field(AUTO, description="kind of table: parquet, delta, or another package's; auto: by what is there")
    version: Annotated[int, Field(ge=0)] | None = Field(
        None, description="version of a table that keeps several; default: the latest when the job begins"
    )
    columns: dict[str, str | tuple[str, ...]] = Field(
        default_factory=dict, description="what the family needs <- source column (or several, side by side)"
    )
    fragment_rows: PositiveInt | Auto = Field("auto", description="most rows in a fragment")
    fragment_mb: Annotated[float, Field(gt=0)] = Field(
        64.0, description="most megabytes (uncompressed, needed columns) in a fragment"
    )
    limit: PositiveInt | None = Field(None, description="score only the first rows")
    on_bad_file: Literal["raise", "quarantine"] = Field(
        "raise", description="a file that cannot be read: stop, or leave it out and name it in the manifest"
    )

    @property
    def columns_read(self) -> list[str]:
        """Name every source column the model needs, once."""
        given = [[c] if isinstance(c, str) else list(c) for c in self.columns.values()]
        return list(dict.fromkeys(name for names in given for name in names))


class ModelConfig(_Part):
    """The model and what it means; which of the settings below `allow_pickle` a family takes, the family says."""

    path: PathText = Field(description="folder, .onnx, .pt2, .safetensors; package:, s3://, models:/, runs:/, hf://")
    family: str
    allow_pickle: bool = Field(False, description="load files that can run code when they are opened")
    max_length: PositiveInt | None = Field(None, description="tokens kept of each text; default: what the model says")
    prompt: str | None = Field(None, description="put before each text; default: what the model's own files say")
    prompt_name: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the one of the model's own prompts that is put before each text"
    )
    truncate_dim: PositiveInt | None = Field(None, description="numbers kept of each vector; default: the model's own")
    top_k: PositiveInt | None = Field(None, description="classes returned for each row; default: 1")
    class_path: str | None = Field(None, alias="class", pattern=r"^[\w.]+:\w+$", description="module:Class")
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the class")
    outputs: dict[str, int] = Field(
        default_factory=dict, description="output -> numbers a row has in it (0: one plain number), for a class"
    )

    @model_validator(mode="after")
    def _one_prompt(self) -> ModelConfig:
        if self.prompt is not None and self.prompt_name is not None:
            raise ValueError("prompt and prompt_name are both set; keep one")
        return self


class RecipeConfig(_Part):
    """A variant of the job's own: techniques in order, each a name or `{name: {option: value}}`, and what runs it."""

    steps: tuple[str | dict[str, dict[str, Any]], ...] = ()
    backend: str
    device: Literal["cpu", "cuda"] = "cpu"
    about: str = "a recipe of this job"


class GateConfig(_Part):
    """The quality a variant must keep against the fp32 baseline on a sample of the job's own rows.

    One of `min`, `max_drop` and `preset` says how much; without any, `min: 0.99`, or with a label `max_drop: 0.01`.
    """

    metric: str | Auto = Field("auto", description="default: the family's first; accuracy where there is a label")
    min: float | None = Field(
        None, allow_inf_nan=False, description="what the lower 95% bound of the metric must reach"
    )
    max_drop: float | None = Field(
        None, ge=0, lt=1, description="share of the baseline's value that may be lost, at the upper 95% bound"
    )
    preset: Literal["mlperf-99", "mlperf-99.9"] | None = Field(
        None, description="MLPerf's quality targets: 99% or 99.9% of the baseline's value"
    )
    label: str | None = Field(None, description="source column with the true answer")
    sample_rows: Annotated[int, Field(ge=8)] = 512
    require_batch_invariance: bool | Auto = Field(
        "auto", description="refuse a variant whose answers depend on the batch; auto: where optinfer chooses it"
    )
    fallback: str | None = Field(None, description="variant that scores the rows when the named one fails")

    @model_validator(mode="after")
    def _one_limit(self) -> GateConfig:
        given = [name for name in ("min", "max_drop", "preset") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both set; keep one")
        return self

    @property
    def largest_drop(self) -> float | None:
        """The share of the baseline's value that may be lost, or None where `threshold` is absolute."""
        if self.preset:
            return {"mlperf-99": 0.01, "mlperf-99.9": 0.001}[self.preset]
        if self.max_drop is not None:
            return self.max_drop
        return 0.01 if self.label and self.min is None else None

    @property
    def threshold(self) -> float:
        """What must be reached: a share of the baseline's value where `largest_drop` is set, else the value itself."""
        if self.largest_drop is not None:
            return 1 - self.largest_drop
        return 0.99 if self.min is None else self.min


class SelectionConfig(_Part):
    """How `variant: auto` chooses."""

    time_budget: Annotated[float, Field(gt=0)] = Field(
        1800.0, description="seconds after which no further candidate is built and certified"
    )


class PlacementConfig(_Part):
    """How many replicas, what each gets, and where they may run."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    replicas: PositiveInt | Auto = "auto"
    min_replicas: PositiveInt | None = Field(None, description="fewest replicas to start with; more join as nodes do")
    max_replicas: PositiveInt | None = Field(None, description="most replicas, however many nodes join")
    threads_per_replica: PositiveInt | Auto = "auto"
    gpus_per_replica: Annotated[float, Field(gt=0)] | Auto = Field(
        1.0, description="a share below 1 puts several replicas on a GPU; auto: as many as its memory holds"
    )
    accelerator_type: str | None = Field(None, description="only nodes with this accelerator, as Ray names it: H100")
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="custom Ray resources each replica takes, e.g. {TPU: 1} or {jetson: 1}"
    )
    cpu_variant: str | None = Field(
        None, description="second variant, for the nodes without a GPU: a name, or auto; the output holds rows of both"
    )
    cost_per_hour: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="price of a node by its accelerator type, `cpu` for nodes without one"
    )

    @model_validator(mode="after")
    def _one_way_to_count(self) -> PlacementConfig:
        low, high = self.min_replicas or 1, self.max_replicas
        if self.replicas != AUTO and (self.min_replicas or high):
            raise ValueError("replicas is a fixed number, min_replicas and max_replicas a range; keep one of the two")
        if high is not None and low > high:
            raise ValueError(f"min_replicas {low} is above max_replicas {high}; swap them")
        return self

    @model_validator(mode="after")
    def _no_idle_cpu_variant(self) -> PlacementConfig:
        if self.cpu_variant and self.device == "cpu":
            raise ValueError("cpu_variant scores beside a variant on GPUs and has no use with device: cpu; remove one")
        return self


class BatchingConfig(_Part):
    """How rows become micro-batches."""

    max_batch_tokens: PositiveInt | Auto = "auto"
    max_batch_size: PositiveInt | Auto = Field("auto", description="default: what suits the family's rows")
    dedupe: Auto | Literal[False] = Field(
        "auto", description="score rows of a fragment whose model inputs are identical once; false: each by itself"
    )


class SinkConfig(_Part):
    """Where the scored rows go, and what happens to those that cannot be scored."""

    path: PathText
    format: str = Field(AUTO, description="kind of table: parquet, delta, or another package's; auto: parquet")
    columns: tuple[str, ...] = Field((), description="source columns carried unchanged")
    on_error: Literal["quarantine", "raise"] = "quarantine"
    error_threshold: float = Field(0.01, ge=0, description="a fraction below 1, or a row count")


class TrackingConfig(_Part):
    """The MLflow experiment."""

    experiment: str = "optinfer"
    uri: str | None = Field(None, description="default: $MLFLOW_TRACKING_URI, else a SQLite file in $OPTINFER_HOME")


class TuningConfig(_Part):
    """What `optinfer tune` searches for, and how long."""

    objective: Literal["rows_per_second", "cost"] = Field(
        "rows_per_second", description="most rows per second, or least cost per million rows (placement.cost_per_hour)"
    )
    time_budget: Annotated[float, Field(gt=0)] = Field(900.0, description="seconds after which no new trial begins")
    sample_rows: Annotated[int, Field(ge=64)] = Field(1024, description="rows a trial scores, lengths as in the job")
    max_memory_mb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="most memory all replicas of a node may take; default: what the node has"
    )


class JobConfig(_Part):
    """One job: the whole of it, frozen."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    source: SourceConfig
    model: ModelConfig
    variant: str
    variants: dict[str, RecipeConfig] = Field(default_factory=dict, description="recipes of this job's own, by name")
    gate: GateConfig = GateConfig()
    selection: SelectionConfig = SelectionConfig()
    placement: PlacementConfig = PlacementConfig()
    batching: BatchingConfig = BatchingConfig()
    sink: SinkConfig
    tracking: TrackingConfig = TrackingConfig()
    tuning: TuningConfig = TuningConfig()

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
    node, raw = yaml_file.read(Path(path))
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
    target[leaf] = yaml_file.value(value, f"--set {override!r}: the value")


def _explain(error: Any, where: Any) -> str:
    known = error["type"] != "extra_forbidden"  # else its last part is a name of the user's, whatever it looks like
    loc = tuple(part for part in error["loc"][: None if known else -1] if not _is_union_branch(part))
    loc += () if known else error["loc"][-1:]
    place = f"{where(loc)}: " if where else ""
    dotted = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        return f"{place}unknown key {dotted!r}" + suggest(str(loc[-1]), _fields_at(loc[:-1]))
    if error["type"] == "missing":
        return f"{place}missing key {dotted!r}: add it to the job"
    return f"{place}{dotted}: {error['msg']} (got {_shown.repr(error['input'])})"


def _is_union_branch(part: Any) -> bool:
    """Tell pydantic's name of a union's branch, which is no key of the file, from a key."""
    return part in ("int", "str", "literal['auto']") or (
        isinstance(part, str) and ("constrained-" in part or "[" in part)
    )


def _fields_at(loc: tuple[Any, ...]) -> list[str]:
    part: Any = JobConfig
    names = iter(loc)
    for name in names:
        part = part.model_fields[name].annotation
        if get_origin(part) is dict:
            part = get_args(part)[1]
            next(names, None)  # the name that the user gave to this entry
    return [field.alias or name for name, field in part.model_fields.items()]


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
