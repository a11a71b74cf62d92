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
from pathlib import Path
from time import perf_counter
from typing import Any

from filelock import FileLock

from optinfer.data import home_store
from optinfer.errors import ConfigError, NoVariantError, OptinferError, scrubbed
from optinfer.models.artifact import ENTRIES, RECORD, Artifact
from optinfer.optimization.techniques import TECHNIQUES, Change, Technique
from optinfer.optimization.techniques import BuildContext as BuildContext
from optinfer.optimization.variants import Variant
from optinfer.system import home
from optinfer.system.contents import listed
from optinfer.system.machine import cpu_features, installed
from optinfer.system.quiet import muted

# Raised when artifacts are written in another way: older ones are then left alone and built anew.
_LAYOUT = 3


def keys(
    variant: Variant,
    model_digest: str,
    calibration_digest: str,
    version: Callable[[str], str | None] = installed,
) -> list[str]:
    """Return the cache key of the model and of the artifact after each step; `version` tells that of a package."""
    found = [model_digest]
    for step in variant.recipe["steps"]:
        technique = TECHNIQUES.get(step["technique"])
        shaped_by = {
            "layout": _LAYOUT,
            "source": found[-1],
            **step,
            "toolchain": {name: version(name) for name in _toolchain(technique)}
            | TECHNIQUES.provenance(step["technique"]),
            "cpu": cpu_features(),
            "calibration": calibration_digest if technique.calibrates else None,
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

    def make(step: dict[str, Any], source: Artifact, folder: Path) -> Artifact:
        if found := _brought(folder, lambda: report(f"{variant.name}: {step['technique']} is fetched, not built")):
            return found
        report(f"building {variant.name}: {step['technique']}")
        return _run_step(step, source, folder, context)

    artifact = _followed(variant, baseline, calibration_digest, make)
    assert artifact is not None
    return artifact


def cached(variant: Variant, baseline: Artifact, calibration_digest: str) -> Artifact | None:
    """Return the variant's artifact if every step is in the cache; build nothing."""
    return _followed(variant, baseline, calibration_digest, lambda step, source, folder: _brought(folder))


def by_key(key: str, model: Artifact) -> Artifact | None:
    """Return the artifact of a key as it was built once, from the cache or our home's store; None where neither has it.

    Args:
        model: the user's, whose files it uses where its steps wrote none.
    """
    folder = home.artifacts() / key
    found = _kept(folder) or _brought(folder)
    return _located(found, model, folder) if found else None


def _followed(
    variant: Variant,
    baseline: Artifact,
    calibration_digest: str,
    make: Callable[[dict[str, Any], Artifact, Path], Artifact | None],
) -> Artifact | None:
    """Follow the recipe through the cache; `make` gives what the cache lacks, or None to give up."""
    artifact = baseline
    for step, key in zip(variant.recipe["steps"], keys(variant, baseline.key, calibration_digest)[1:], strict=True):
        if already(step["technique"], artifact.format):
            continue
        folder = home.artifacts() / key
        found = _kept(folder) or make(step, artifact, folder)
        if found is None:
            return None
        artifact = _located(found, artifact, folder)
    return artifact


def _kept(folder: Path) -> Artifact | None:
    """Return what the cache has in `folder`; what was damaged there is made again."""
    found = home.read(folder / RECORD, lambda record: Artifact.read(record.parent))
    return found if found and home.is_whole(folder) else None


def _brought(folder: Path, report: Callable[[], None] = lambda: None) -> Artifact | None:
    """Return what our home's store has for `folder`, fetched by one process of this machine; None without a store."""
    if home.store() is None:
        return None
    with _held(folder):
        if done := _kept(folder):
            return done
        if not home_store.bring(folder):
            return None
    report()
    return _kept(folder)


def _held(folder: Path) -> FileLock:
    """Return the lock of an artifact's folder: whoever builds or fetches it holds it."""
    with home.writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{folder}.lock")


def _located(found: Artifact, source: Artifact, folder: Path) -> Artifact:
    """A step that wrote nothing leaves the model's files where they are, which is where they are now."""
    stayed = found.path != str(folder)
    return replace(found, path=source.path, entry=source.entry, beside=source.beside) if stayed else found


def _toolchain(technique: Technique) -> tuple[str, ...]:
    """Name the packages whose version shapes what a step makes: transformers' code is what loads a torch model."""
    return (*technique.requires, "transformers") if "torch" in technique.inputs else technique.requires


def already(technique: str, model_format: str) -> bool:
    """Tell whether a step only brings a model into the format it is in (the export of an ONNX file)."""
    module = TECHNIQUES.get(technique)
    return model_format not in module.inputs and model_format == module.output


def _run_step(step: dict[str, Any], source: Artifact, folder: Path, context: Callable[[], BuildContext]) -> Artifact:
    technique = TECHNIQUES.get(step["technique"])
    if source.format not in technique.inputs:
        raise ConfigError(f"technique {step['technique']} takes {', '.join(technique.inputs)}, not {source.format}")
    with _held(folder):
        if done := _kept(folder):
            return done
        home.require_space(source.size_bytes)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            started = perf_counter()
            change = _changed(technique, source, context(), aside, step)
            made = _after(source, change, step["technique"], folder, any(aside.iterdir()))
            made = replace(made, build_seconds=source.build_seconds + perf_counter() - started)
            made.save(aside)
            if not home_store.offer(folder, aside) and home_store.bring(folder) and (theirs := _kept(folder)):
                return theirs  # another machine built it meanwhile: what is certified is the same everywhere
            home.note_files(folder, listed(aside))
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
            return made
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _changed(technique: Technique, source: Artifact, context: BuildContext, out: Path, step: dict[str, Any]) -> Change:
    try:
        with muted():
            return technique.run(source, context, out, step["options"])
    except OptinferError:
        raise
    except Exception as error:
        raise NoVariantError(
            f"{step['technique']} cannot treat this model: {type(error).__name__}: {scrubbed(str(error))[:500]}; "
            "choose another variant"
        ) from error


def _after(source: Artifact, change: Change, technique: str, folder: Path, wrote: bool) -> Artifact:
    """Describe what a step made of `source`, in `folder` if it wrote files."""
    stays_torch = change.format == source.format == "torch"
    conversions = source.conversions if stays_torch else ()
    if change.convert is not None:
        conversions = (*conversions, {"technique": technique, "folder": str(folder), **change.convert})
    # A technique that only changes how the model is loaded leaves the model's files where they are.
    moved = wrote and not stays_torch
    return replace(
        source,
        path=str(folder) if moved else source.path,
        entry=ENTRIES.get(change.format, "") if moved else source.entry,
        beside=None if moved else source.beside,
        format=change.format,
        precision=change.precision,
        key=folder.name,
        notes=(*source.notes, *change.notes),
        load_options={**source.load_options, **change.load_options},
        conversions=conversions,
    )
