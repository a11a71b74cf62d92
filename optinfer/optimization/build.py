"""Build a recipe's artifact, or take it from the cache: each step's folder is named by all that shaped it.

A step that two recipes share (the ONNX export) is built once. A folder is complete when it appears: it is made aside
and renamed, under a file lock, so two jobs that start together build once and a killed build leaves nothing that loads.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

from filelock import FileLock

from optinfer import home, plugins
from optinfer.artifact import Artifact
from optinfer.errors import ConfigError
from optinfer.optimization.techniques import BuildContext
from optinfer.optimization.variants import Variant
from optinfer.quiet import muted

_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "bf16")


def keys(variant: Variant, model_digest: str, calibration_digest: str) -> list[str]:
    """Return the cache key of the model and of the artifact after each step."""
    found = [model_digest]
    for step in variant.recipe["steps"]:
        technique = plugins.load("techniques", step["technique"])
        shaped_by = {
            "source": found[-1],
            **step,
            "toolchain": {name: installed(name) for name in technique.REQUIRES},
            "cpu": cpu_features(),
            "calibration": calibration_digest if technique.CALIBRATES else None,
        }
        found.append(hashlib.sha256(json.dumps(shaped_by, sort_keys=True).encode()).hexdigest()[:16])
    return found


def build(
    variant: Variant,
    baseline: Artifact,
    calibration_digest: str,
    context: Callable[[], BuildContext],
    report: Callable[[str], None] = lambda line: None,
) -> Artifact:
    """Return the variant's artifact, running only the steps the cache lacks.

    Args:
        variant: an available variant.
        baseline: the user's model; its key is the model digest.
        calibration_digest: identifies the calibration rows.
        context: makes what techniques need; called only when something is built.
        report: is told what is being built.
    """
    artifact = baseline
    for step, key in zip(variant.recipe["steps"], keys(variant, baseline.key, calibration_digest)[1:], strict=True):
        folder = home.artifacts() / key
        cached = Artifact.read(folder)
        if cached is None:
            report(f"building {variant.name}: {step['technique']}")
            cached = _run_step(step, artifact, folder, context)
        artifact = cached
    return artifact


def _run_step(step: dict[str, Any], source: Artifact, folder: Path, context: Callable[[], BuildContext]) -> Artifact:
    technique = plugins.load("techniques", step["technique"])
    if source.format not in technique.INPUTS:
        raise ConfigError(f"technique {step['technique']} takes {', '.join(technique.INPUTS)}, not {source.format}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if done := Artifact.read(folder):
            return done
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            started = perf_counter()
            with muted():
                change = technique.run(source, context(), aside, step["options"])
            artifact = Artifact(
                # A technique that only changes how the model is loaded leaves its files where they are.
                path=str(aside if any(aside.iterdir()) else source.path),
                format=change.format,
                precision=change.precision,
                key=folder.name,
                build_seconds=source.build_seconds + perf_counter() - started,
                notes=(*source.notes, *change.notes),
                load_options={**source.load_options, **change.load_options},
            )
            return _publish(artifact, aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _publish(artifact: Artifact, aside: Path, folder: Path) -> Artifact:
    if artifact.path == str(aside):
        artifact = replace(artifact, path=str(folder))
    artifact.save(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return artifact


@cache
def cpu_features() -> list[str]:
    """Return the instruction sets that change what a runtime computes, as the kernel names them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    line = next((ln for ln in text.splitlines() if ln.lower().startswith(("flags", "features"))), "")
    return sorted(set(line.split()) & set(_CPU_FLAGS))


def installed(module: str) -> str:
    """Return the version of the package that brings a module."""
    for name in (module, f"{module}-gpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
