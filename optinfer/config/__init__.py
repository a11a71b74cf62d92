"""The job, as frozen values validated once at the edge; below everything that uses it.

`load_job` reads the YAML and points at file and line when something is wrong. See docs/jobs.md for every field.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from optinfer.config.monitor import MonitorConfig as MonitorConfig
from optinfer.config.monitor import MonitorSection
from optinfer.config.part import Part
from optinfer.errors import ConfigError
from optinfer.plugins import Kind
from optinfer.system import dates

AUTO: Literal["auto"] = "auto"
Auto = Literal["auto"]
# As MLflow takes them, but for `latest` and `v3`, which it refuses itself.
_ALIAS = r"^[A-Za-z0-9_-]+$"
PositiveInt = Annotated[int, Field(ge=1)]
# The arm of an experiment that is the job itself.
CONTROL = "control"
# In sink.path: the number of the registered model's version that scores (models/registered.py).
MODEL_VERSION = "{model_version}"


def is_registered(path: str) -> bool:
    """Tell whether a model's path names a version of a registered model: `models:/NAME@ALIAS`, `models:/NAME/3`."""
    return path.startswith("models:/") and any(mark in path.removeprefix("models:/") for mark in "@/")


def _a_place(path: str) -> str:
    """Refuse no path at all, which would mean the folder that the command was started in."""
    if not path.strip() or "\0" in path:
        raise ValueError("give a path or a URL")
    return path


def _of_a_night(path: str, info: ValidationInfo) -> str:
    """Put the logical date into the path, today's where the job is for no other night."""
    night = (info.context or {}).get("logical_date")
    return dates.filled(path, night or date.today())


def _of_a_night_and_a_model(path: str, info: ValidationInfo) -> str:
    """Put the logical date into the path; the model's version is put in when the registry was asked."""
    night = (info.context or {}).get("logical_date")
    return dates.filled(path, night or date.today(), (MODEL_VERSION,))


def _a_webhook(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("give an http:// or https:// URL")
    return url


PathText = Annotated[str, AfterValidator(_a_place)]
DatedPath = Annotated[PathText, AfterValidator(_of_a_night)]
OutputPath = Annotated[PathText, AfterValidator(_of_a_night_and_a_model)]


class SourceConfig(Part):
    """The table: a Parquet file, a folder (hive-partitioned or not) or a glob, or another kind's; any fsspec URL."""

    path: DatedPath = Field(
        description="Parquet file, folder or glob, or a Delta table; local, `s3://`, anything fsspec opens. Hive "
        "partitions (`key=value` folders) become columns. `{date}`, `{previous}`: [schedule.md](schedule.md#dates)",
    )
    format: str = Field(
        AUTO,
        description="kind of table: `parquet`, `delta`, or one that another package brings; `auto`: by what lies there",
    )
    version: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="version of a table that keeps several; the latest when the job is planned where nothing is said",
    )
    columns: dict[str, str | tuple[str, ...]] = Field(
        default_factory=dict,
        description="what the family needs <- source column, e.g. `{text: description}`; several columns side by "
        "side: `{x: [a, b]}`. `tabular` takes columns by the model's own names where nothing is said",
    )
    fragment_rows: PositiveInt | Auto = Field(
        "auto",
        description="most rows in a fragment, the unit of reading, commit and resume; `auto`: what the family wants, "
        "less for a small table",
    )
    fragment_mb: Annotated[float, Field(gt=0)] = Field(
        64.0,
        description="most megabytes (uncompressed, needed columns) in a fragment",
    )
    limit: PositiveInt | None = Field(
        None,
        description="score only the first rows. Variants are judged on a sample of the whole table all the same, so a "
        "trial builds and proves what the job then uses",
    )
    on_bad_file: Literal["raise", "quarantine"] = Field(
        "raise",
        description="a file that cannot be decoded: stop (exit 1), or `quarantine`: leave it out and name it in the "
        "manifest. What the storage says (no permission, an expired token, an outage) never makes a file "
        "a bad one: it is asked again for three minutes, then the job ends (exit 1)",
    )

    @property
    def columns_read(self) -> list[str]:
        """Name every source column the model needs, once."""
        given = [[c] if isinstance(c, str) else list(c) for c in self.columns.values()]
        return list(dict.fromkeys(name for names in given for name in names))


class FamilySettings(Part):
    """What a job may say of a family's model, under `model`; each family has its own.

    Attributes:
        younger: settings that came after outputs which have to go on: a job that leaves them is the job that it was.
    """

    younger: ClassVar[frozenset[str]] = frozenset()

    @property
    def identity(self) -> dict[str, object]:
        """What of it shapes the answers, by the names that job files use."""
        fields = type(self).model_fields
        unsaid = {
            name for name in self.younger if getattr(self, name) == fields[name].get_default(call_default_factory=True)
        }
        return self.model_dump(by_alias=True, exclude=unsaid)

    @property
    def own_code(self) -> str | None:
        """`module:Class` of the job's own that shapes the answers, if any does."""
        return None


@runtime_checkable
class _Settled(Protocol):
    """What of a family concerns the job file: its settings, and which files are its models (see families/)."""

    @property
    def settings(self) -> type[FamilySettings]: ...

    @property
    def any_file(self) -> bool: ...

    @property
    def format(self) -> str | None: ...


FAMILY_SETTINGS: Kind[_Settled] = Kind("family", "families", "optinfer.families", _Settled)  # type: ignore[type-abstract]


class ModelConfig(Part):
    """The model and what it means; beside these keys a model has those of its family."""

    model_config = ConfigDict(frozen=True, extra="allow")

    path: PathText = Field(
        description="folder, `.onnx`, `.pt2`, `.safetensors`; `package:`, `s3://`, `models:/`, `runs:/`, `hf://`",
    )
    family: str = Field(
        description="`text-embedding`, `text-classification`, `image-classification`, `tabular`, `tensor`, `custom`",
    )
    allow_pickle: bool = Field(
        False,
        description="load files that can run code when they are opened",
    )

    @model_validator(mode="after")
    def _settled(self) -> ModelConfig:
        _ = self.settings
        return self

    def at(self, path: str) -> ModelConfig:
        """Return it for another model that means the same.

        Raises:
            ValidationError: that is no place of a model.
        """
        return ModelConfig(**{**self.model_dump(), "path": path})

    @property
    def settings(self) -> Mapping[str, object]:
        """What the job says of a model of its family, by the names that job files use; all of them.

        Raises:
            ValidationError: the family takes no such setting, or another value.
        """
        given = self._given
        return given.model_dump(by_alias=True) if given else {}

    @property
    def identity(self) -> Mapping[str, object]:
        """What of the settings shapes the answers."""
        given = self._given
        return given.identity if given else {}

    @property
    def own_code(self) -> str | None:
        """`module:Class` of the job's own that shapes the answers, if any does."""
        given = self._given
        return given.own_code if given else None

    @property
    def any_file(self) -> bool:
        """Whether the family's models are files of any kind."""
        return FAMILY_SETTINGS.get(self.family).any_file

    @property
    def format(self) -> str | None:
        """The format of artifacts that the family's models are, None where the file tells."""
        return FAMILY_SETTINGS.get(self.family).format

    @property
    def _given(self) -> FamilySettings | None:
        known = settings_of(self.family)  # that there is no such family is said where it is loaded
        return known.model_validate(self.model_extra or {}) if known else None


def settings_of(family: str) -> type[FamilySettings] | None:
    """Return the type of a family's settings, None where there is no such family."""
    try:
        return FAMILY_SETTINGS.get(family).settings
    except ConfigError:
        return None


class RecipeConfig(Part):
    """A variant of the job's own: techniques in order, each a name or `{name: {option: value}}`, and what runs it."""

    steps: tuple[str | dict[str, dict[str, Any]], ...] = Field(
        (), description="techniques in order, each a name or `{name: {option: value}}`"
    )
    backend: str = Field(description="what executes the result")
    device: str = Field("cpu", description="what it executes on: one of the backend's devices, `cpu` or `cuda`, say")
    about: str = Field("a recipe of this job", description="what `optinfer optimize` shows of it")


class GateConfig(Part):
    """The quality a variant must keep against the fp32 baseline on a sample of the job's own rows.

    One of `min`, `max_drop` and `preset` says how much; without any, `min: 0.99`, or with a label `max_drop: 0.01`.
    """

    metric: str | Auto = Field(
        "auto",
        description="how outputs are compared with the baseline: `cosine`, `top1_agreement`, `r2`, `agreement` (the "
        "same to rounding), the least of all outputs; `same_answers` (the same set of labels) with "
        "`model.threshold`; with a label `accuracy` or a scikit-learn scorer",
    )
    min: float | None = Field(
        None,
        allow_inf_nan=False,
        description="what the metric's lower 95% bootstrap bound must reach",
    )
    max_drop: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="instead of `min`: share of the baseline's value that may be lost",
    )
    preset: Literal["mlperf-99", "mlperf-99.9"] | None = Field(
        None,
        description="instead of `min`: `mlperf-99` or `mlperf-99.9`, which are 99% and 99.9% of the baseline's value",
    )
    label: str | None = Field(
        None,
        description="source column with the true answer; then `max_drop: 0.01` unless said otherwise",
    )
    sample_rows: Annotated[int, Field(ge=8)] = Field(
        512,
        description="rows of the job's own table that are compared",
    )
    require_batch_invariance: bool | Auto = Field(
        "auto",
        description="refuse a variant whose answers depend on a row's neighbours; `auto`: only where optinfer chooses"
        " (`variant: auto`), a named one runs with a warning",
    )
    fallback: str | None = Field(
        None,
        description="variant that scores the rows when the named one fails the gate",
    )

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


class SelectionConfig(Part):
    """How `variant: auto` chooses."""

    time_budget: Annotated[float, Field(gt=0)] = Field(
        1800.0,
        description="seconds after which `auto` tries no further variant; a trial that takes longer (and more than "
        "600) is ended",
    )


class PlacementConfig(Part):
    """How many replicas, what each gets, and where they may run."""

    device: str = Field(
        "auto",
        description="`cpu`, `cuda`",
    )
    replicas: PositiveInt | Auto = Field(
        "auto",
        description="as many as fit by CPUs, GPUs, memory (as certified) and fragments; more than fit is refused with"
        " the numbers",
    )
    min_replicas: PositiveInt | None = Field(
        None,
        description="with `replicas: auto`: refuse to start with fewer",
    )
    max_replicas: PositiveInt | None = Field(
        None,
        description="with `replicas: auto`: no more than this; on a cluster that grows, replicas join as nodes do, up"
        " to one a fragment. Set on a cluster that has no worker yet, the job waits for its autoscaler "
        "instead of being refused",
    )
    threads_per_replica: PositiveInt | Auto = Field(
        "auto",
        description="what `optinfer tune` found, else 1 on CPUs: several one-thread replicas beat one with several "
        "threads. With 1, preprocessing takes turns with the model; more of it overlaps from 2 on",
    )
    gpus_per_replica: Annotated[float, Field(gt=0)] | Auto = Field(
        1.0,
        description="a share below 1 puts several replicas on a GPU; `auto`: as many as its memory holds, by what one"
        " was certified to take",
    )
    accelerator_type: str | None = Field(
        None,
        description="only nodes with this accelerator, as Ray names it: `H100`, `TPU-V4`",
    )
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="custom Ray resources each replica takes: `{TPU: 1}`, `{jetson: 1}`",
    )
    cpu_variant: str | None = Field(
        None,
        description="a second variant, a name or `auto`, for the nodes without a GPU, beside a variant for CUDA",
    )
    cost_per_hour: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="price of a node by its accelerator type as Ray names it, `cpu` for nodes without one: `{cpu: "
        "0.2, H100: 4}`; for forecasts and `tuning.objective: cost`",
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


class BatchingConfig(Part):
    """How rows become micro-batches."""

    max_batch_tokens: PositiveInt | Auto = Field(
        "auto",
        description="padded tokens in a micro-batch; `auto`: what `optinfer tune` found, else measured best of the "
        "backend",
    )
    max_batch_size: PositiveInt | Auto = Field(
        "auto",
        description="rows in a micro-batch; `auto`: 64 texts, 32 images, 1024 rows of numbers (fewer of large ones), "
        "4096 of a table",
    )
    dedupe: Auto | Literal[False] = Field(
        "auto",
        description="rows of a fragment that are equal in all mapped columns are scored once, and each gets the "
        "answer (or the reason); texts, bytes, whole numbers, booleans and dates are compared, a table "
        "with other columns is scored row by row. `false`: each row by itself",
    )
    timeout: Annotated[float, Field(gt=0)] | Auto = Field(
        "auto",
        description="seconds that a micro-batch may take in the model, a replica's first included; `auto`: 50 times "
        "the certified p99, at least 60. Then the replica is ended, and the row that does not end is found "
        "([Rows that end a replica](#rows-that-end-a-replica))",
    )

    @property
    def identity(self) -> dict[str, Any]:
        """What of it shapes the answers."""
        return self.model_dump(exclude={"timeout"})


class SinkConfig(Part):
    """Where the scored rows go, and what happens to those that cannot be scored."""

    path: OutputPath = Field(
        description="folder for the output. `{date}`, `{previous}`: [schedule.md](schedule.md#dates); "
        "`{model_version}`: [decide.md](decide.md#promote)",
    )
    format: str = Field(
        AUTO,
        description="kind of table: `parquet`, `delta`, or one that another package brings; `auto` is `parquet`",
    )
    columns: tuple[str, ...] = Field(
        (),
        description="source columns carried unchanged, bit for bit; one whose type would not survive is refused (exit"
        " 2)",
    )
    on_error: Literal["quarantine", "column", "raise"] = Field(
        "quarantine",
        description="what becomes of a row that cannot be scored: `quarantine`: it goes to `_quarantine`; `column`: it "
        "keeps its place, with nulls and the reason in the column `_error`; `raise`: the job stops at the first "
        "(exit 1)",
    )
    error_threshold: float = Field(
        0.01,
        ge=0,
        description="quarantined rows allowed: a share below 1, a number of rows from 1 on; above it exit 3",
    )


class ArmConfig(Part):
    """One arm of an experiment: another variant, or another model, for a share of the rows."""

    share: Annotated[float, Field(gt=0, lt=1)] = Field(description="of the keys that are this arm's")
    variant: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="what scores them; the job's own where nothing is said"
    )
    model: PathText | None = Field(
        None, description="the model that scores them, as in `model.path`; the job's own where nothing is said"
    )

    @model_validator(mode="after")
    def _differs(self) -> ArmConfig:
        if self.variant is None and self.model is None:
            raise ValueError("an arm names a variant or a model of its own; add one, or remove the arm")
        return self


_ArmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class ExperimentConfig(Part):
    """An A/B test in the table: every row is one arm's, by its key; the job itself is the arm `control`."""

    arms: dict[_ArmName, ArmConfig] = Field(
        default_factory=dict,
        description="by name: `{new: {share: 0.1, model: models:/m@challenger}}`, a share of the keys and a `variant` "
        "or `model` of its own; the rest is `control`'s, which is the job itself ([decide.md](decide.md#experiment))",
    )
    key: str | None = Field(
        None,
        description="source column, of texts or whole numbers, whose value decides a row's arm: the same one in every "
        "run and on every node",
    )
    name: str = Field(
        "experiment",
        description="what the keys are dealt by: another name deals them anew, independently of this one",
    )
    column: Annotated[str, Field(min_length=1)] = Field(
        "arm",
        description="column of the output that says whose a row was",
    )

    @model_validator(mode="after")
    def _whole(self) -> ExperimentConfig:
        if bool(self.arms) != (self.key is not None):
            raise ValueError("an experiment has arms and a key: give both, or neither")
        if CONTROL in self.arms:
            raise ValueError(f"{CONTROL} is the job itself; name the arm otherwise")
        if (taken := sum(arm.share for arm in self.arms.values())) >= 1:
            raise ValueError(f"the arms' shares add up to {taken:g}; leave some to {CONTROL}, which is the job itself")
        return self


class TrackingConfig(Part):
    """The MLflow experiment."""

    experiment: str = Field(
        "optinfer",
        description="MLflow experiment",
    )
    uri: str | None = Field(
        None,
        description="MLflow server or store; default `$MLFLOW_TRACKING_URI`, else a SQLite file in `$OPTINFER_HOME`",
    )


class NotifyConfig(Part):
    """Who is told how a run ended."""

    url: Annotated[str, AfterValidator(_a_webhook)] | None = Field(
        None,
        repr=False,
        description="webhook that the run's record is posted to, the one that `run --json` prints; `https://`, or "
        "`http://` inside a network",
    )
    secret_env: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="environment variable with the secret that signs it ([monitoring.md](monitoring.md#webhook))",
    )
    on: tuple[Literal["done", "failed", "interrupted"], ...] = Field(
        ("done", "failed"),
        description="ends that are told: `done` (also: nothing left to do), `failed`, `interrupted`",
    )

    @field_serializer("url", when_used="json")
    def _without_path(self, url: str | None) -> str | None:
        """Return what a manifest may show: the path of a webhook may be all that guards it."""
        return url if url is None else f"{url.partition('://')[0]}://{urlsplit(url).hostname}/..."

    @model_validator(mode="after")
    def _no_idle_secret(self) -> NotifyConfig:
        if self.secret_env and self.url is None:
            raise ValueError("secret_env signs what is posted to url, and there is none; add url, or remove secret_env")
        return self


class TuningConfig(Part):
    """What `optinfer tune` searches for, and how long."""

    objective: Literal["rows_per_second", "cost"] = Field(
        "rows_per_second",
        description="what `optinfer tune` searches for: most rows per second of a node, or least `cost` per million "
        "rows",
    )
    time_budget: Annotated[float, Field(gt=0)] = Field(
        900.0,
        description="seconds after which no new trial begins",
    )
    sample_rows: Annotated[int, Field(ge=64)] = Field(
        1024,
        description="rows that each replica scores in a trial",
    )
    max_memory_mb: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="most memory that all replicas of a node may take together",
    )


class DifferenceRule(Part):
    """What the interval of challenger minus champion has to show."""

    not_worse_by: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="a loss up to this is none: the interval lies above minus this, in the metric's own units",
    )
    better_by: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="instead of `not_worse_by`: the interval lies above this",
    )

    @model_validator(mode="after")
    def _one_of_the_two(self) -> DifferenceRule:
        if self.not_worse_by is not None and self.better_by is not None:
            raise ValueError("not_worse_by and better_by are both set; keep one of the two")
        return self


class SlicesRule(Part):
    """What the interval of every slice has to show."""

    not_worse_by: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="a loss up to this is none, in any slice of `--by`",
    )


class CostRule(Part):
    """What a million rows may cost."""

    at_most: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="the challenger's cost of a million rows as a multiple of the champion's (1.1: 10% more); takes "
        "`placement.cost_per_hour`",
    )


class RuleConfig(Part):
    """What a comparison has to show before an alias is moved; all of it."""

    difference: DifferenceRule = DifferenceRule()
    slices: SlicesRule = SlicesRule()
    cost: CostRule = CostRule()


class PromoteConfig(Part):
    """Which alias of the registered model `optinfer promote` moves, and when."""

    alias: Annotated[str, Field(pattern=_ALIAS)] = Field(
        "champion",
        description="alias of the registered model that `optinfer promote` moves to the challenger's version",
    )
    previous: Annotated[str, Field(pattern=_ALIAS)] = Field(
        "previous",
        description="alias that is left at the version it moved from, for `--rollback`",
    )
    when: RuleConfig = RuleConfig()

    @model_validator(mode="after")
    def _two_aliases(self) -> PromoteConfig:
        if self.alias == self.previous:
            raise ValueError("alias and previous are the same; name two")
        return self


class JobConfig(Part):
    """One job: the whole of it, frozen."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="letters, digits, `.`, `_`, `-`",
    )
    source: SourceConfig
    model: ModelConfig
    variant: str = Field(
        description="a name from `optinfer variants`, or `auto`: every variant that is available and likely to gain "
        "is built and certified (once; certificates are kept), the fastest that passes scores, the others"
        " are named with their reasons",
    )
    variants: dict[str, RecipeConfig] = Field(
        default_factory=dict,
        description="recipes of the job's own, by name: `{steps: [...], backend: ..., device: cpu}`",
    )
    gate: GateConfig = GateConfig()
    selection: SelectionConfig = SelectionConfig()
    placement: PlacementConfig = PlacementConfig()
    batching: BatchingConfig = BatchingConfig()
    sink: SinkConfig
    experiment: ExperimentConfig = ExperimentConfig()
    tracking: TrackingConfig = TrackingConfig()
    notify: NotifyConfig = NotifyConfig()
    tuning: TuningConfig = TuningConfig()
    promote: PromoteConfig = PromoteConfig()
    monitor: MonitorSection = Field(
        MonitorConfig(),
        description="whether and how rows and answers are held against those of earlier runs; `false`: not at all",
    )

    @model_validator(mode="after")
    def _watched_columns_are_read(self) -> JobConfig:
        read = {*self.source.columns_read, *self.sink.columns}
        if missing := [name for name in self.monitor.columns if name not in read]:
            raise ValueError(
                f"monitor.columns names {', '.join(missing)}, which the job does not read; name it in sink.columns, too"
            )
        return self

    @property
    def models(self) -> dict[str, ModelConfig]:
        """Every model that the job names, by its key: its own first, then those of an experiment's arms."""
        arms = self.experiment.arms.items()
        return {
            "model.path": self.model,
            **{f"experiment.arms.{name}.model": self.model.at(arm.model) for name, arm in arms if arm.model},
        }

    @model_validator(mode="after")
    def _no_idle_fallback(self) -> JobConfig:
        if self.variant == AUTO and self.gate.fallback:
            raise ValueError("gate.fallback has no use with variant: auto, which ends at the baseline; remove one")
        return self

    @model_validator(mode="after")
    def _a_version_to_name(self) -> JobConfig:
        if MODEL_VERSION in self.sink.path and not is_registered(self.model.path):
            raise ValueError(
                f"sink.path has {MODEL_VERSION}, and model.path is no version of a registered model; write it as "
                "models:/NAME@ALIAS, or leave the word out"
            )
        return self

    @model_validator(mode="after")
    def _one_pool_of_arms(self) -> JobConfig:
        if self.experiment.arms and self.placement.cpu_variant:
            raise ValueError("each arm of an experiment has one variant; remove placement.cpu_variant")
        return self

    @field_validator("variant")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("name a variant (see `optinfer variants`)")
        return value
