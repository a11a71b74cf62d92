"""Recipes: a chain of techniques, a backend, a device. Listing them, with why one cannot run, imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from optinfer import plugins
from optinfer.config import AUTO
from optinfer.errors import ConfigError, UnavailableError, suggest

BASELINE = "torch-fp32"


@dataclass(frozen=True)
class Step:
    technique: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A named recipe. `about` is the line `optinfer variants` prints."""

    name: str
    steps: tuple[Step, ...] = ()
    backend: str
    device: str = "cpu"
    about: str

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that shapes the artifact and its execution, defaults included."""
        steps = [
            {"technique": s.technique, "options": {**plugins.load("techniques", s.technique).DEFAULTS, **s.options}}
            for s in self.steps
        ]
        return {"steps": steps, "backend": self.backend, "device": self.device}

    @property
    def techniques(self) -> str:
        return " > ".join(s.technique for s in self.steps) or "none"

    def unavailable(self) -> str | None:
        """Return why this machine cannot build or run the variant, with the fix; None where it can."""
        backend = plugins.load("backends", self.backend)
        modules = [backend, *(plugins.load("techniques", s.technique) for s in self.steps)]
        missing = sorted({m for module in modules for m in plugins.missing_modules(module.REQUIRES)})
        if missing:
            return f"not installed: {', '.join(missing)}; fix: {_install(missing)}"
        if self.device not in backend.DEVICES:
            return f"backend {self.backend} runs on {', '.join(backend.DEVICES)}, not {self.device}"
        reason: str | None = backend.unavailable(self.device)
        return reason


_EXPORT = Step("onnx_export")
_ALL = (
    Variant(name=BASELINE, backend="torch", about="the model as it is; every other variant is compared to it"),
    Variant(
        name="torch-bf16",
        steps=(Step("cast", {"dtype": "bfloat16"}),),
        backend="torch",
        about="weights and arithmetic in bfloat16; fast on CPUs with BF16 instructions",
    ),
    Variant(
        name="torch-fp16-cuda",
        steps=(Step("cast", {"dtype": "float16"}),),
        backend="torch",
        device="cuda",
        about="weights and arithmetic in float16 on an NVIDIA GPU",
    ),
    Variant(name="onnx-fp32", steps=(_EXPORT,), backend="onnxruntime", about="exact arithmetic, optimized graph"),
    Variant(
        name="onnx-int8-dynamic",
        steps=(_EXPORT, Step("onnx_int8_dynamic")),
        backend="onnxruntime",
        about="int8 without calibration; a row's answer depends on its neighbours",
    ),
    Variant(
        name="openvino-int8-static",
        steps=(_EXPORT, Step("openvino_int8_static")),
        backend="openvino",
        about="int8 calibrated on the job's rows, the rest in bf16; answers do not depend on neighbours",
    ),
)
VARIANTS = {v.name: v for v in _ALL}


def get(name: str) -> Variant:
    """Return a variant by name.

    Raises:
        ConfigError: no such variant; names the nearest.
    """
    if name not in VARIANTS:
        raise ConfigError(f"no variant {name!r}" + suggest(name, [*VARIANTS, AUTO]))
    return VARIANTS[name]


def require(name: str) -> Variant:
    """Return a variant that this machine can run.

    Raises:
        UnavailableError: it cannot; says why and what to do.
    """
    variant = get(name)
    if reason := variant.unavailable():
        raise UnavailableError(f"variant {name} is not available here: {reason}")
    return variant


def listing() -> list[dict[str, Any]]:
    """Describe every variant and whether this machine can run it."""
    found = []
    for variant in VARIANTS.values():
        reason = variant.unavailable()
        found.append(
            {
                "name": variant.name,
                "available": reason is None,
                "reason": reason,
                "techniques": variant.techniques,
                "backend": variant.backend,
                "device": variant.device,
                "about": variant.about,
            }
        )
    return found


def _install(missing: list[str]) -> str:
    extras = {"openvino": "openvino", "nncf": "openvino", "torchao": "torchao"}
    extra = sorted({extras[m] for m in missing if m in extras})
    rest = [re.sub("_", "-", m) for m in missing if m not in extras]
    names = ([f"'optinfer[{','.join(extra)}]'"] if extra else []) + rest
    return f"pip install {' '.join(names)}"
