"""Recipes: a chain of techniques, a backend, a device. Listing them, with why one cannot run, imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optinfer import plugins
from optinfer.backends import BACKENDS
from optinfer.config import AUTO, JobConfig, RecipeConfig
from optinfer.errors import ConfigError, UnavailableError, suggest
from optinfer.optimization.techniques import TECHNIQUES
from optinfer.records.machine import Offer
from optinfer.system.machine import BF16, VNNI, cpu_features

# What every other variant is compared with: the model as it is, by the format it comes in.
BASELINES = {"torch": "torch-fp32", "onnx": "onnx-fp32", "pyfunc": "pyfunc"}


@dataclass(frozen=True)
class Step:
    technique: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A named recipe.

    Attributes:
        steps: techniques in order, each with the options that differ from its defaults.
        needs: CPU features, one of which must be there.
        exploratory: `variant: auto` leaves it out, as it seldom keeps a gate or gains speed; `optimize` shows it.
        about: what `optinfer variants` prints.
    """

    name: str
    steps: tuple[Step, ...] = ()
    backend: str
    device: str = "cpu"
    needs: tuple[str, ...] = ()
    exploratory: bool = False
    about: str

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that shapes the artifact and its execution, defaults included."""
        steps = [
            {"technique": s.technique, "options": {**TECHNIQUES.get(s.technique).defaults, **s.options}}
            for s in self.steps
        ]
        return {"steps": steps, "backend": self.backend, "device": self.device}

    @property
    def techniques(self) -> str:
        return " > ".join(s.technique for s in self.steps) or "none"

    @property
    def draft(self) -> Variant | None:
        """The same, with each step as it suffices for a probe; None where none of them is made sooner."""
        steps = tuple(Step(s.technique, {**s.options, **TECHNIQUES.get(s.technique).draft}) for s in self.steps)
        return None if steps == self.steps else replace(self, steps=steps)

    @property
    def calibrates(self) -> bool:
        return any(TECHNIQUES.get(step.technique).calibrates for step in self.steps)

    def unavailable(self) -> str | None:
        """Return why this machine cannot build or run the variant, with the fix; None where it can."""
        backend = BACKENDS.get(self.backend)
        needed = dict.fromkeys(plugins.missing_modules(backend.requires), backend.extra)
        for technique in (TECHNIQUES.get(step.technique) for step in self.steps):
            needed |= dict.fromkeys(plugins.missing_modules(technique.requires), technique.extra)
        missing = sorted(needed)
        if self.device not in backend.devices:
            return f"backend {self.backend} runs on {', '.join(backend.devices)}, not {self.device}"
        if reason := backend.unavailable(self.device):
            return str(reason)
        if missing:
            return f"not installed: {', '.join(missing)}; fix: {_install(needed)}"
        if self.needs and not set(self.needs) & set(cpu_features()):
            return f"this CPU has none of {', '.join(self.needs)}; run where there is one, or choose another variant"
        return None

    def unfit(self, model_format: str) -> str | None:
        """Return why the recipe cannot start from a model of this format; None where it can."""
        current = model_format
        for step in self.steps:
            technique = TECHNIQUES.get(step.technique)
            if current not in technique.inputs and current != technique.output:
                return f"{step.technique} takes {', '.join(technique.inputs)}, not {current}"
            current = technique.output
        formats = BACKENDS.get(self.backend).formats
        return None if current in formats else f"{self.backend} runs {', '.join(formats)}, not {current}"


_EXPORT = Step("onnx_export")
_FP16 = (Step("cast", {"dtype": "float16"}),)
_PRUNE = Step("prune_structured")
# The likeliest winners come first: `selection.time_budget` may end the search before the last.
_ALL = (
    Variant(name="torch-fp32", backend="torch", about="the model as it is; every other variant is compared to it"),
    Variant(
        name="openvino-int8-static",
        steps=(_EXPORT, Step("openvino_int8_static")),
        backend="openvino",
        about="int8 calibrated on the job's rows, the rest in bf16 where the CPU has it",
    ),
    Variant(
        name="ctranslate2-int8",
        steps=(Step("ctranslate2_convert"),),
        backend="ctranslate2",
        about="text encoders in int8, a scale for each token, in CTranslate2; converted in seconds, not calibrated",
    ),
    Variant(
        name="onnx-int8-qdq",
        steps=(_EXPORT, Step("onnx_int8_qdq")),
        backend="onnxruntime",
        about="int8 products with weights, calibrated on the job's rows; the rest in fp32",
    ),
    Variant(
        name="onnx-int8-static",
        steps=(_EXPORT, Step("onnx_int8_static")),
        backend="onnxruntime",
        about="int8 calibrated on the job's rows by NNCF, attention and embeddings too",
    ),
    Variant(
        name="openvino-bf16",
        steps=(_EXPORT, Step("openvino_convert", {"inference_precision": "bf16"})),
        backend="openvino",
        needs=BF16,
        about="arithmetic in bfloat16, for CPUs with BF16 instructions",
    ),
    Variant(
        name="torch-bf16",
        steps=(Step("cast", {"dtype": "bfloat16"}),),
        backend="torch",
        needs=BF16,
        about="weights and arithmetic in bfloat16, for CPUs with BF16 instructions",
    ),
    Variant(
        name="torchao-int8-dynamic",
        steps=(Step("torchao_int8", {"mode": "dynamic"}),),
        backend="torch-compiled",
        needs=VNNI,
        about="int8 with a scale for each token, compiled; for CPUs with int8 instructions",
    ),
    Variant(
        name="openvino-fp32",
        steps=(_EXPORT, Step("openvino_convert")),
        backend="openvino",
        about="exact arithmetic, OpenVINO's kernels",
    ),
    Variant(
        name="onnx-tabular",
        steps=(Step("onnx_tabular"),),
        backend="onnxruntime",
        about="scikit-learn, XGBoost or LightGBM as ONNX: the same trees or sums, without Python",
    ),
    Variant(
        name="pyfunc", backend="pyfunc", about="a table's model as its own library scores it; the baseline of these"
    ),
    Variant(
        name="ctranslate2-fp32",
        steps=(Step("ctranslate2_convert", {"quantization": "float32"}),),
        backend="ctranslate2",
        about="text encoders in exact arithmetic, in CTranslate2",
    ),
    Variant(name="onnx-fp32", steps=(_EXPORT,), backend="onnxruntime", about="exact arithmetic, optimized graph"),
    Variant(
        name="onnx-optimized",
        steps=(_EXPORT, Step("onnx_optimize")),
        backend="onnxruntime",
        about="onnx-fp32 with its graph optimized once instead of at every load",
    ),
    Variant(
        name="torch-compiled",
        backend="torch-compiled",
        about="the model as it is, compiled by inductor; the first call takes tens of seconds",
    ),
    Variant(
        name="openvino-int8-weights",
        steps=(_EXPORT, Step("openvino_weights", {"mode": "int8_asym"})),
        backend="openvino",
        about="weights stored in int8, arithmetic in float: a quarter of the memory",
    ),
    Variant(
        name="torchao-int8-weights",
        steps=(Step("torchao_int8", {"mode": "weights"}),),
        backend="torch",
        about="weights stored in int8, arithmetic in float: a quarter of the memory",
    ),
    Variant(
        name="onnx-int8-dynamic",
        steps=(_EXPORT, Step("onnx_int8_dynamic")),
        backend="onnxruntime",
        about="int8 without calibration; a row's answer depends on its neighbours",
    ),
    Variant(
        name="onnx-int4-weights",
        steps=(_EXPORT, Step("onnx_int4_weights")),
        backend="onnxruntime",
        exploratory=True,
        about="weights in 4 bits: for models that outgrow memory; small ones lose answers",
    ),
    Variant(
        name="openvino-int4-weights",
        steps=(_EXPORT, Step("openvino_weights", {"mode": "int4_asym"})),
        backend="openvino",
        exploratory=True,
        about="weights in 4 bits: for models that outgrow memory; small ones lose answers",
    ),
    Variant(
        name="torch-pruned",
        steps=(_PRUNE,),
        backend="torch",
        exploratory=True,
        about="a quarter of the heads and neurons left out, without training: faster, other answers",
    ),
    Variant(
        name="onnx-pruned-int8",
        steps=(_PRUNE, _EXPORT, Step("onnx_int8_qdq")),
        backend="onnxruntime",
        exploratory=True,
        about="pruned, then int8: faster, other answers",
    ),
    Variant(
        name="torch-pruned-unstructured",
        steps=(Step("prune_unstructured"),),
        backend="torch",
        exploratory=True,
        about="half of the weights zero: shows what the model can lose, dense kernels gain nothing",
    ),
    Variant(
        name="tensorrt-fp16",
        steps=(_EXPORT, Step("tensorrt_profile")),
        backend="onnxruntime-tensorrt",
        device="cuda",
        about="TensorRT engine in float16, built for this GPU and the job's lengths",
    ),
    Variant(
        name="torch-compiled-fp16-cuda",
        steps=_FP16,
        backend="torch-compiled",
        device="cuda",
        about="float16, compiled, replayed as CUDA graphs",
    ),
    Variant(
        name="torch-fp16-cuda",
        steps=_FP16,
        backend="torch",
        device="cuda",
        about="weights and arithmetic in float16 on an NVIDIA GPU",
    ),
    Variant(
        name="onnx-fp16-cuda",
        steps=(_EXPORT, Step("onnx_fp16")),
        backend="onnxruntime",
        device="cuda",
        about="float16 in ONNX Runtime on an NVIDIA GPU",
    ),
    Variant(
        name="torch-sparse-cuda",
        steps=(Step("sparsity_2_4"),),
        backend="torch",
        device="cuda",
        exploratory=True,
        about="two of four weights zero, on NVIDIA's sparse tensor cores; other answers without training",
    ),
)
VARIANTS = {v.name: v for v in _ALL}

Catalog = Mapping[str, Variant]


def catalog(config: JobConfig) -> dict[str, Variant]:
    """Return the variants a job may use: those that ship, and the recipes of its own.

    Raises:
        ConfigError: a recipe takes a shipped name, or names a technique, option or backend that does not exist.
    """
    return {**VARIANTS, **{name: _own(name, recipe) for name, recipe in config.variants.items()}}


def _own(name: str, recipe: RecipeConfig) -> Variant:
    if name in VARIANTS or name == AUTO:
        raise ConfigError(f"variants.{name}: optinfer ships a variant of this name; choose another name")
    BACKENDS.get(recipe.backend)
    steps = []
    for given in recipe.steps:
        entries = {given: {}} if isinstance(given, str) else given
        for technique, options in entries.items():
            known = TECHNIQUES.get(technique).defaults
            if unknown := [option for option in options if option not in known]:
                raise ConfigError(
                    f"variants.{name}: {technique} has no option {unknown[0]!r}" + suggest(unknown[0], known)
                )
            steps.append(Step(technique, options))
    return Variant(name=name, steps=tuple(steps), backend=recipe.backend, device=recipe.device, about=recipe.about)


def get(name: str, among: Catalog = VARIANTS) -> Variant:
    """Return a variant by name.

    Raises:
        ConfigError: no such variant; names the nearest.
    """
    if name not in among:
        raise ConfigError(f"no variant {name!r}" + suggest(name, [*among, AUTO]))
    return among[name]


def require(name: str, among: Catalog = VARIANTS, model_format: str | None = None) -> Variant:
    """Return a variant that this machine can run, from a model of this format.

    Raises:
        UnavailableError: it cannot; says why and what to do.
    """
    variant = get(name, among)
    if reason := variant.unavailable():
        raise UnavailableError(f"variant {name} is not available here: {reason}")
    if model_format:
        require_fit(variant, model_format)
    return variant


def require_fit(variant: Variant, model_format: str) -> None:
    """Refuse a variant that cannot start from a model of this format.

    Raises:
        UnavailableError: says what it takes.
    """
    if reason := variant.unfit(model_format):
        raise UnavailableError(f"variant {variant.name} does not fit this model: {reason}; see `optinfer variants`")


def listing() -> list[Offer]:
    """Describe every variant that ships and whether this machine can run it."""
    found = []
    for variant in VARIANTS.values():
        reason = variant.unavailable()
        found.append(
            Offer(
                name=variant.name,
                available=reason is None,
                reason=reason,
                techniques=variant.techniques,
                backend=variant.backend,
                device=variant.device,
                about=variant.about,
            )
        )
    return found


def _install(missing: Mapping[str, str | None]) -> str:
    """Return the command that installs modules, some of which an extra of ours brings."""
    extra = sorted({name for name in missing.values() if name})
    rest = [module.replace("_", "-") for module, name in missing.items() if not name]
    names = ([f"'optinfer[{','.join(extra)}]'"] if extra else []) + rest
    return f"pip install {' '.join(names)}"
