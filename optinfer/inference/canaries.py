"""A replica proves itself: it is what was certified, on what it was certified on, and answers as it did there.

Asked before it scores anything. First what needs no model: the versions of the runtime, the instructions that change
what the variant computes, the files. Then the canaries, each in a micro-batch of its own. What differs is refused by
name; what the instructions mean for a precision is in docs/variants.md.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.errors import UnfitNodeError
from optinfer.inference.engine import Engine
from optinfer.inference.invariance import difference
from optinfer.inference.replica import ReplicaSettings
from optinfer.records.canary import Arrays, Canaries, Ground, places
from optinfer.system.contents import digest
from optinfer.system.machine import BF16, VNNI, cpu_features, gpu, installed

# Beside an artifact the model's own folder is read for small files (tokenizer, preprocessing), never for weights.
_SMALL = 16 * 2**20


@dataclass(frozen=True)
class _Ability:
    """Instructions of a CPU, any of which does; where none is, a precision gives other answers."""

    name: str
    features: tuple[str, ...]

    def among(self, features: Iterable[str]) -> list[str]:
        return sorted(set(self.features) & set(features))


# Without the first, products of 8 bits are summed in 16 bits and may saturate. Without the second, what is to compute
# in bf16 computes in fp32, or is emulated. Floats of 32 bits differ by rounding between all CPUs: canaries tell.
_INT8 = _Ability("instructions for sums of 8-bit products", VNNI)
_BF16 = _Ability("instructions for bf16", BF16)
_MATTERS = {"int8": _INT8, "int4": _INT8, "bf16": _BF16, "bfloat16": _BF16}


def require_proved(
    settings: ReplicaSettings, load: Callable[[ReplicaSettings], Engine], here: Ground | None = None
) -> Engine:
    """Return `load(settings)` after it proved itself; settings without canaries were proved of nothing, and load.

    Args:
        here: what this node is; None looks.

    Raises:
        UnfitNodeError: something differs from what was certified; says what, by how much, where, and what helps.
    """
    canaries = settings.canaries
    require_fit(settings, here)
    if canaries is None:
        return load(settings)
    require_files(settings, canaries.files)
    engine = load(settings)
    _require_answers(engine, settings, canaries)
    return engine


def require_fit(settings: ReplicaSettings, here: Ground | None = None) -> None:
    """Refuse a node that cannot answer as was certified, as far as its ground tells: before anything is loaded.

    Args:
        here: what this node is; None looks.

    Raises:
        UnfitNodeError: as `require_proved` does.
    """
    canaries = settings.canaries
    if canaries and (why := unfit(settings, here or ground(settings.device, canaries.ground.runtime))):
        raise _refused(settings, *why)


def ground(device: str, packages: Iterable[str]) -> Ground:
    """Return what this node is, as far as answers depend on it."""
    runtime = {name: installed(name) for name in packages}
    return Ground(cpu_features=tuple(cpu_features()), runtime=runtime, gpu=gpu() if device == "cuda" else "")


def contents(settings: ReplicaSettings) -> dict[str, str]:
    """Return file -> SHA-256 of what a replica loads: the artifact, what is converted, the model's small files."""
    return {name: digest(file) for name, file in _files(settings).items()}


def answered(engine: Engine, row: pa.Table) -> Arrays:
    """Return the answer to one row alone, of a long one the numbers at `places`; nothing where it is rejected."""
    scored = engine.score(row)
    if not len(scored.kept):
        return {}
    return {name: _thinned(np.asarray(values)) for name, values in scored.outputs.items()}


def require_files(settings: ReplicaSettings, certified: Mapping[str, str]) -> None:
    """Refuse files that are not what was certified, as `contents` told it.

    Raises:
        LoadError: names the file and both digests.
    """
    found = _files(settings)
    for name, sha256 in certified.items():
        here = digest(found[name]) if name in found else "missing"
        if here != sha256:
            folder = settings.model.path if name.startswith("model/") else settings.artifact.path
            raise _refused(
                settings,
                f"{found.get(name, name)} is not the file that was certified (SHA-256 {sha256[:12]}, here "
                f"{here[:12]}): this copy is damaged, or was changed",
                f"copy {folder} anew, or delete it where it is in $OPTINFER_HOME, and run the same command again",
            )


def unfit(settings: ReplicaSettings, here: Ground) -> tuple[str, str] | None:
    """Return what keeps a node from answering as was certified, as far as its ground tells, and what helps.

    Args:
        settings: with canaries.
        here: what the node is.
    """
    assert settings.canaries is not None
    canaries, certified = settings.canaries, settings.canaries.ground
    for package, version in certified.runtime.items():
        if (found := here.runtime.get(package, "unknown")) != version:
            return (
                f"it was certified with {package} {version}, here is {found}",
                f"install {package}=={version} here, or what is here where the job starts: then it is certified anew",
            )
    if settings.device != "cpu":
        return None
    for ability in dict.fromkeys(_MATTERS[p] for p in canaries.precisions if p in _MATTERS):
        there, own = ability.among(certified.cpu_features), ability.among(here.cpu_features)
        if bool(there) != bool(own):
            return (
                f"it was certified on a CPU with {_listed(there)} of the {ability.name}, this one has {_listed(own)}: "
                f"its {'/'.join(p for p in canaries.precisions if _MATTERS.get(p) == ability)} answers differ",
                "start the job on a node like this one, which builds and certifies it for such nodes; keep replicas "
                "off other nodes with placement.resources; or choose an fp32 variant, which all of them answer alike",
            )
    return None


def _require_answers(engine: Engine, settings: ReplicaSettings, canaries: Canaries) -> None:
    table, outputs = canaries.table, canaries.outputs
    for row, kind in enumerate(canaries.kinds):
        certified = {name: values[row : row + 1] for name, values in outputs.items()}
        here = answered(engine, table.slice(row, 1))
        if why := differs(certified, here, canaries):
            raise _refused(
                settings,
                f"its answer to the canary {row} ({kind}) is not the one that was certified: {why}; certified on "
                f"{_described(canaries.ground)}, here is {_described(ground(settings.device, ()))}",
                "its files are as they were, so this node computes otherwise: check its memory and drivers, leave it "
                "out (placement.resources), or start the job on a node like it, which certifies the variant there",
            )


def differs(certified: Arrays, here: Arrays, canaries: Canaries) -> str:
    """Return how an answer to one row differs from the certified one, or nothing."""
    for name, values in certified.items():
        if name not in here:
            return f"there is none of {name!r}"
        own = here[name]
        if own.shape != values.shape:
            return f"{name!r} has {own.shape[1:]} numbers, not {values.shape[1:]}"
        if not np.issubdtype(values.dtype, np.floating):
            if (own != values).any():
                return f"{name!r} is {_first(own)}, not {_first(values)}"
            continue
        far = difference({name: values}, {name: own}, canaries.worth)
        if not far <= canaries.tolerance:  # what is no number is not within, either
            return f"{name!r} differs by {far:.3g}, {canaries.tolerance:.3g} is allowed"
    return ""


def _refused(settings: ReplicaSettings, what: str, remedy: str) -> UnfitNodeError:
    variant = settings.variant or settings.artifact.key
    return UnfitNodeError(f"node {socket.gethostname()} does not score with {variant}: {what}; {remedy}")


def _files(settings: ReplicaSettings) -> dict[str, Path]:
    """Return what is loaded, under names that are the same on every node."""
    artifact, model = settings.artifact, settings.model
    found = _named("artifact", Path(artifact.path), artifact.files)
    for i, conversion in enumerate(artifact.conversions):
        folder = Path(str(conversion["folder"]))
        found |= _named(f"conversion-{i}", folder, folder.rglob("*"))
    if model.path != artifact.path:
        found |= _named("model", Path(model.path), (f for f in model.files if f.stat().st_size <= _SMALL))
    return found


def _named(place: str, folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    """Return the files of a folder by name; hidden ones and compiled code are nobody's content."""
    names = {file.relative_to(folder).as_posix(): file for file in files if file.is_file()}
    return {
        f"{place}/{name}": file
        for name, file in sorted(names.items())
        if not any(part.startswith((".", "__pycache__")) for part in name.split("/"))
    }


def _thinned(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    flat = values.reshape(len(values), -1)
    return flat[:, places(flat.shape[1])]


def _described(where: Ground) -> str:
    runtime: Mapping[str, str] = where.runtime
    said = [where.gpu] if where.gpu else [" ".join(where.cpu_features) or "a CPU that says nothing of itself"]
    return ", ".join([*said, *(f"{name} {version}" for name, version in runtime.items())])


def _listed(features: list[str]) -> str:
    return ", ".join(features) or "none"


def _first(values: np.ndarray[Any, Any]) -> str:
    return str(values.reshape(-1)[:3].tolist())[:80]
