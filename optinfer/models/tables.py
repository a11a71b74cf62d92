"""Models that a library of its own scores tables with: whose a file is, what it says of itself, what opening it may do.

XGBoost's and LightGBM's own formats hold numbers and no code, skops holds objects of types that are trusted by name.
A pickle, and a model that MLflow opens with code of its own (any flavor but these three), is opened only with
`model.allow_pickle`. Read without any of these libraries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError
from optinfer.models.safety import PICKLES, refuse_pickle
from optinfer.system import yaml_file
from optinfer.system.machine import installed

# The packages of which a model's answers are, by what opens it.
LIBRARIES = {"sklearn": "scikit-learn", "xgboost": "xgboost", "lightgbm": "lightgbm", "pyfunc": "mlflow"}
# A library's own format, its file, the same from version to version; else only the version that wrote it reads it.
_OWN_FORMATS = {".json": "xgboost", ".ubj": "xgboost", ".txt": "lightgbm", ".lgb": "lightgbm"}
_SKOPS = ".skops"
_KINDS = "XGBoost's .json or .ubj, LightGBM's .txt, scikit-learn's .skops, .pkl or .joblib, or a folder with MLmodel"
_DESCRIPTION = "MLmodel"
_REQUIREMENTS = "requirements.txt"


@dataclass(frozen=True, kw_only=True)
class Column:
    """An input or output that a model's signature names; `kind` is MLflow's word for its type, `size` of a vector."""

    name: str
    kind: str
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a model's files say of it.

    Attributes:
        library: what opens it: `sklearn`, `xgboost`, `lightgbm`, or `pyfunc` for MLflow.
        file: what that library opens; the whole folder for MLflow.
        runs_code: opening it can run any code.
        inputs, outputs: its signature; empty where there is none.
        pinned: package -> version, of those that its answers may depend on.
        requirements: the file that names these; None without one.
    """

    library: str
    file: Path
    runs_code: bool
    inputs: tuple[Column, ...] = ()
    outputs: tuple[Column, ...] = ()
    pinned: tuple[tuple[str, str], ...] = ()
    requirements: Path | None = None

    def require_environment(self) -> None:
        """Refuse to open a model with other versions than those that it was logged with.

        Raises:
            ConfigError: a package is missing, or has another version; says the command.
        """
        differing = [
            f"{name} {wanted} ({'not installed' if here == 'unknown' else f'here is {here}'})"
            for name, wanted in self.pinned
            if (here := installed(name)) != wanted
        ]
        if differing:
            raise ConfigError(
                f"the model was logged with {', '.join(differing)}, and only those versions are known to open it as it "
                f"was; in an environment of its own: pip install optinfer -r {self.requirements}. Or accept the "
                "versions that are installed with model.any_versions: true"
            )


def read(path: Path) -> Described:
    """Return what a file or folder is, by its name and its description.

    Raises:
        ConfigError: it is no model of this kind.
    """
    if path.is_dir():
        described = sorted(path.rglob(_DESCRIPTION))
        return _logged(described[0]) if described else _of_a_file(_only_file(path))
    return _of_a_file(path)


def require_harmless(model: Described, allow_pickle: bool) -> None:
    """Refuse a model that can run code when it is opened, unless the job allows that.

    Raises:
        ConfigError: it can; says what to do.
    """
    if allow_pickle:
        return
    if model.runs_code:
        raise ConfigError(
            f"{model.file} can run any code when {model.library} opens it: it is a pickle, or has code of its own; log "
            "it as skops (scikit-learn) or in its library's own format (XGBoost, LightGBM), or set "
            "model.allow_pickle: true if you trust where it comes from"
        )
    refuse_pickle(model.file)


def _of_a_file(file: Path) -> Described:
    if not file.is_file():
        raise ConfigError(f"model.path {file} does not exist; give {_KINDS}")
    suffix = file.suffix.lower()
    if library := _OWN_FORMATS.get(suffix):
        return Described(library=library, file=file, runs_code=False)
    if suffix == _SKOPS or suffix in PICKLES:
        return Described(library="sklearn", file=file, runs_code=suffix != _SKOPS)
    raise ConfigError(f"model.path {file} is no model that scores tables; give {_KINDS}")


def _only_file(folder: Path) -> Path:
    suffixes = (*_OWN_FORMATS, _SKOPS, *PICKLES)
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name != _REQUIREMENTS)
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise ConfigError(f"model.path {folder} holds no MLmodel, and of model files: {names}; name one: {_KINDS}")
    return found[0]


def _logged(description: Path) -> Described:
    folder = description.parent
    try:
        said = yaml_file.read(description, "description of an MLflow model")[1]
        library, data = _flavor(said["flavors"])
        signature = said.get("signature") or {}
        inputs, outputs = (tuple(_columns(signature.get(side))) for side in ("inputs", "outputs"))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{description} is no description of an MLflow model ({type(error).__name__}: {error}); log the model again"
        ) from error
    file = folder / data
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{description} names {file}, which lies outside of the model; log the model again")
    own_format = file.suffix in _OWN_FORMATS
    requirements = folder / _REQUIREMENTS
    return Described(
        library=library,
        file=file,
        runs_code=not (own_format or file.suffix == _SKOPS),
        inputs=inputs,
        outputs=outputs,
        pinned=() if own_format else tuple(_pins(requirements, library)),
        requirements=requirements,
    )


def _flavor(flavors: Mapping[str, Any]) -> tuple[str, str]:
    """Return what opens a logged model, and its file in the folder; MLflow opens those that bring code, and all others.

    A flavor beside python_function says that the library itself can; none of these three does what another does not.
    """
    for library, key in (("sklearn", "pickled_model"), ("xgboost", "data"), ("lightgbm", "data")):
        if library in flavors and not flavors[library].get("code"):
            return library, flavors[library][key]
    if "python_function" not in flavors:
        raise ConfigError(f"the MLflow model has the flavors {', '.join(sorted(flavors))}, of which none scores tables")
    return "pyfunc", ""


def _columns(signature: str | None) -> Iterator[Column]:
    """Yield the columns of one side of a signature: MLflow keeps it as JSON."""
    for i, spec in enumerate(json.loads(signature) if signature else ()):
        name = spec.get("name")
        if spec["type"] == "tensor":
            shape = spec["tensor-spec"]["shape"]
            size = int(shape[1]) if len(shape) > 1 else None
            yield Column(name=str(i) if name is None else str(name), kind=spec["tensor-spec"]["dtype"], size=size)
        else:
            yield Column(name=str(i) if name is None else str(name), kind=spec["type"])


def _pins(file: Path, library: str) -> Iterator[tuple[str, str]]:
    """Yield the versions that shape answers: all that MLflow noted where it opens the model, else the libraries'.

    What else was imported when the model was logged is in that file, too. MLflow reads what older ones wrote.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            wanted = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:  # an option, a comment, nothing
            continue
        exact = [s.version for s in wanted.specifier if s.operator in ("==", "===")]
        shapes = wanted.name != "mlflow" if library == "pyfunc" else wanted.name in LIBRARIES.values()
        if exact and shapes and wanted.name != "mlflow" and (wanted.marker is None or wanted.marker.evaluate()):
            yield wanted.name, exact[0]
