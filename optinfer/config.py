"""The job, as frozen values validated once at the edge; below everything that uses it.

`load_job` reads the YAML and points at file and line when something is wrong. See docs/jobs.md for every field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from optinfer.errors import ConfigError
from optinfer.plugins import Kind

AUTO: Literal["auto"] = "auto"
Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(ge=1)]


def _a_place(path: str) -> str:
    """Refuse no path at all, which would mean the folder that the command was started in."""
    if not path.strip() or "\0" in path:
        raise ValueError("give a path or a URL")
    return path


PathText = Annotated[str, AfterValidator(_a_place)]


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


@runtime_checkable
class _Settled(Protocol):
    """What of a family concerns the job file: the type of its settings (see families/)."""

    @property
    def settings(self) -> type[BaseModel]: ...


_FAMILIES: Kind[_Settled] = Kind("family", "families", "optinfer.families", _Settled)  # type: ignore[type-abstract]


class ModelConfig(_Part):
    """The model and what it means; beside these keys a model has those of its family."""

    model_config = ConfigDict(frozen=True, extra="allow")

    path: PathText = Field(description="folder, .onnx, .pt2, .safetensors; package:, s3://, models:/, runs:/, hf://")
    family: str = Field(description="what rows and outputs mean: text-embedding, tensor, ...")
    allow_pickle: bool = Field(False, description="load files that can run code when they are opened")

    @model_validator(mode="after")
    def _settled(self) -> ModelConfig:
        _ = self.settings
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What the job says of a model of its family, by the names that job files use; all of them.

        Raises:
            ValidationError: the family takes no such setting, or another value.
        """
        known = settings_of(self.family)
        if known is None:
            return {}  # that there is no such family is said where it is loaded
        return known.model_validate(self.model_extra or {}).model_dump(by_alias=True)


def settings_of(family: str) -> type[BaseModel] | None:
    """Return the type of a family's settings, None where there is no such family."""
    try:
        return _FAMILIES.get(family).settings
    except ConfigError:
        return None


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


def job_schema() -> dict[str, Any]:
    """Return the JSON Schema of a job file; under `model` are the settings of every family that is installed."""
    schema = JobConfig.model_json_schema()
    model = schema["$defs"]["ModelConfig"]
    for name in _FAMILIES.names():
        settings = _FAMILIES.get(name).settings.model_json_schema()
        model["properties"] |= settings.get("properties", {})
        schema["$defs"] |= settings.get("$defs", {})
    model["additionalProperties"] = False
    model["properties"]["family"]["examples"] = _FAMILIES.names()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "optinfer job", **schema}
