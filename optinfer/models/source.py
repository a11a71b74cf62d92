"""Where a model comes from, brought to this machine: a local file or folder, checked, with a digest of its content.

models/folder, model.onnx, model.pt2, weights.safetensors      on this machine
package:<python package>/<path inside it>                       shipped by an installed package
s3://bucket/models/x                                            anything fsspec opens, kept in $OPTINFER_HOME/models
models:/name@champion  models:/name/3  runs:/<run>/model        MLflow, likewise
hf://org/name@revision                                          the Hugging Face hub, likewise
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from optinfer import plugins
from optinfer.config import ModelConfig
from optinfer.data.storage import absolute, file_system, is_local
from optinfer.errors import ConfigError, redact
from optinfer.models import registered, tables
from optinfer.models.artifact import Artifact
from optinfer.models.safety import PICKLES, check_onnx, check_pt2, check_safetensors, refuse_pickle
from optinfer.system import contents, home, yaml_file
from optinfer.system.outages import reaching

_PACKAGE, _HUB = "package:", "hf://"
_MLFLOW = ("models:/", "runs:/")
_MODEL_FILES = (".onnx", ".pt2")
# What lies beside a model file and says what it means.
_DESCRIPTIONS = ("config.json", "preprocessor_config.json", "processor_config.json")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.onnx", "*.onnx_data"]
_HUB_SECONDS = 30.0
_KINDS = "a folder with config.json and *.safetensors, an .onnx, .pt2 or .safetensors file"


def locate(config: ModelConfig, tracking: str | None = None) -> Artifact:
    """Return the job's model as the artifact that every recipe starts from.

    Args:
        config: the job's model.
        tracking: the MLflow store that has `models:/` and `runs:/`; None takes the default one.

    Raises:
        ConfigError: it is not there, it is no model, or opening it could run code.
    """
    path = _local(config, tracking or home.default_tracking_uri())
    if not path.exists():
        raise ConfigError(f"model.path {redact(config.path)} does not exist; give {_KINDS}")
    if config.format:
        return _of_a_library(path, config)
    folder, entry = (path, _entry(path, config)) if path.is_dir() else (path.parent, path.name)
    main = folder / entry
    if not config.allow_pickle:
        _refuse_pickles(main, config)
    content = (
        [path] if path.is_dir() else [main, *(folder / name for name in _DESCRIPTIONS if (folder / name).is_file())]
    )
    if main.suffix == ".onnx":
        content += check_onnx(main)
    elif main.suffix == ".pt2" and not config.allow_pickle:
        check_pt2(main)
    is_onnx = main.suffix == ".onnx" and not config.any_file
    precision = _onnx_precision(main) if is_onnx else "fp32"
    return Artifact(
        path=str(folder),
        entry=entry,
        beside=None if path.is_dir() else tuple(file.relative_to(folder).as_posix() for file in content[1:]),
        format="onnx" if is_onnx else "torch",
        precision=precision,
        # Nobody knows how its weights were made.
        load_options={"full_range": True} if precision == "int8" else {},
        key=digest(*content, *_own_code(config)),
    )


def _of_a_library(path: Path, config: ModelConfig) -> Artifact:
    """Return a model that its own library opens, as it is: a file, or the folder that MLflow logged."""
    tables.require_harmless(tables.read(path), config.allow_pickle)
    return Artifact(
        path=str(path if path.is_dir() else path.parent),
        entry="" if path.is_dir() else path.name,
        beside=None if path.is_dir() else (),
        format=config.format or "",
        precision="fp64",
        key=digest(path),
    )


def digest(*paths: Path) -> str:
    """Return a hex digest of every file's name and content; folders are walked, hidden files left out."""
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            name = file.relative_to(path if path.is_dir() else path.parent).as_posix()
            if not any(part.startswith((".", "__pycache__")) for part in name.split("/")):
                total.update(f"{name}:{contents.digest(file)}\n".encode())
    return total.hexdigest()[:16]


def _local(config: ModelConfig, tracking: str) -> Path:
    path = config.path
    if path.startswith(_PACKAGE):
        return _in_package(path)
    if path.startswith(_MLFLOW):
        fetched = _from_mlflow(path, tracking)
        return fetched if config.format else _flavor(fetched)
    if path.startswith(_HUB):
        return _from_hub(path)
    return Path(absolute(path)) if is_local(path) else _remote(path)


def _onnx_precision(file: Path) -> str:
    """Return what a user's ONNX model computes in, by its own operators and weights."""
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    kinds = {node.op_type for node in graph.node}
    if any("QuantizeLinear" in kind or "Integer" in kind or kind.startswith("QLinear") for kind in kinds):
        return "int8"
    halves = sum(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    return (
        "fp16" if halves > sum(tensor.data_type == onnx.TensorProto.FLOAT for tensor in graph.initializer) else "fp32"
    )


def _entry(folder: Path, config: ModelConfig) -> str:
    """Return the main file of a folder, or "" where the folder is loaded as a whole."""
    if config.any_file or list(folder.glob("*.safetensors")):
        return ""
    found = [p for pattern in _MODEL_FILES for p in (*folder.glob(f"*{pattern}"), *folder.glob(f"onnx/*{pattern}"))]
    if len(found) == 1:
        return found[0].relative_to(folder).as_posix()
    if len(found) > 1:
        names = ", ".join(sorted(p.name for p in found))
        raise ConfigError(f"model.path {folder} holds several models ({names}); name the file")
    if pickles := sorted(p for p in folder.iterdir() if p.suffix in PICKLES):
        if not config.allow_pickle:
            refuse_pickle(pickles[0])
        return "" if (folder / "config.json").is_file() else pickles[0].name
    raise ConfigError(f"model.path {folder} holds no model; give {_KINDS}")


def _refuse_pickles(main: Path, config: ModelConfig) -> None:
    for weights in sorted(main.glob("*.safetensors")) if main.is_dir() else []:
        check_safetensors(weights)
    if main.is_dir():
        return
    refuse_pickle(main)
    if main.suffix == ".safetensors":
        check_safetensors(main)
    elif main.suffix not in _MODEL_FILES and not config.any_file:
        raise ConfigError(f"model.path {main} is no model file; give {_KINDS}")


def _in_package(path: str) -> Path:
    package, _, inner = path.removeprefix(_PACKAGE).partition("/")
    found = find_spec(package)  # finds without importing: a package may load a runtime of its own
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            f"model.path {path}: the Python package {package} is not installed; "
            f"fix: pip install {package.replace('_', '-')}"
        )
    return Path(found.submodule_search_locations[0]) / inner


def _fetched(identity: str, fetch: Callable[[Path], object]) -> Path:
    """Return the folder of $OPTINFER_HOME that holds what `fetch(folder)` brings; complete when it appears."""
    folder = home.models() / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if not home.is_whole(folder):
        with home.writing(folder):
            home.models().mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=".fetching-", dir=home.models()))
        try:
            fetch(aside)
            if not home.is_whole(folder):  # else another job brought it meanwhile, and may be reading it
                home.note_files(folder, contents.listed(aside))
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):
                    aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def _remote(url: str) -> Path:
    """Bring a file or folder of an object store here, unless what is here has the same names, sizes and versions."""
    fs, root = file_system(url.rstrip("/"))
    with reaching(url):
        single = fs.isfile(root)
        found = {root: fs.info(root)} if single else fs.find(root, detail=True)
        if not found:
            raise ConfigError(f"model.path {redact(url)} does not exist; give {_KINDS}")
        targets = {name: Path(name).name if single else os.path.relpath(name, root) for name in sorted(found)}
        if outside := [name for name, target in targets.items() if ".." in Path(target).parts]:
            raise ConfigError(f"model.path {redact(url)} holds {outside[0]!r}, a name that leads out of it; remove it")

        def download(out: Path) -> None:
            for name, target in targets.items():
                (out / target).parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(name, str(out / target))

        # What a store says of a file (its ETag, or when it was written) changes with its content.
        folder = _fetched(json.dumps([redact(url.rstrip("/")), found], sort_keys=True, default=str), download)
    return folder / Path(root).name if single else folder


def _from_mlflow(uri: str, tracking: str) -> Path:
    from mlflow import artifacts

    # Opening a logged pickle is MLflow's default; nothing here does it, and nothing it calls may.
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with registered.asking(uri, tracking):
        exact, made, place, model_id = _mlflow_version(registered.client(tracking), uri)
        folder = _fetched(
            f"{redact(tracking)} {exact} {made}",
            lambda out: artifacts.download_artifacts(artifact_uri=place, dst_path=str(out), tracking_uri=tracking),
        )
        noted = {"version": exact, "tracking": redact(tracking), "model_id": model_id}
        if home.read_json(_noted(folder), dict) != noted:
            home.put(_noted(folder), json.dumps(noted).encode())
        return folder


def _mlflow_version(client: Any, uri: str) -> tuple[str, str, str, str]:
    """Return the URI with the version that an alias or `latest` stands for now, when and from what it was made, where
    it lies, and the id of the logged model that it is ("" where MLflow names none).

    To find a version's files MLflow's own download asks the default store of this process, whatever store it is given.
    """
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    if not uri.startswith("models:/"):
        return uri, "", uri, ""
    name, *number = get_model_name_and_version(client, uri)
    if not number:  # models:/m-…, a logged model that nothing changes
        return uri, "", client.get_logged_model(name).artifact_location, name
    version, place = client.get_model_version(name, number[0]), client.get_model_version_download_uri(name, number[0])
    logged = version.source.removeprefix("models:/") if version.source.startswith("models:/m-") else ""
    if place.startswith("models:/m-"):
        place = client.get_logged_model(place.removeprefix("models:/")).artifact_location
    # A model that was deleted and registered anew counts from 1 again.
    return f"models:/{name}/{number[0]}", f"{version.source} {version.creation_timestamp}", place, logged


def _noted(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.origin.json")


def origin(model: Artifact) -> Mapping[str, str]:
    """Return which `version` of a model that MLflow has was fetched, its `model_id` and whose `tracking` that is.

    Empty for a model from elsewhere.
    """
    path = Path(model.path)
    if not path.is_relative_to(home.models()):
        return {}
    folder = home.models() / path.relative_to(home.models()).parts[0]
    return home.read_json(_noted(folder), dict) or {}


def _flavor(folder: Path) -> Path:
    """Return the model inside what MLflow logged: the ONNX, transformers, sentence-transformers or pt2 part of it."""
    described = next(iter(sorted(folder.rglob("MLmodel"))), None)
    if described is None:
        return folder
    try:
        model = _of_flavors(yaml_file.read(described, "description of an MLflow model")[1]["flavors"], described.parent)
    except (LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{described} is no description of an MLflow model ({type(error).__name__}: {error}); log the model again"
        ) from error
    if not model.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{described} names {model}, which lies outside of the model; log the model again")
    return model


def _of_flavors(flavors: dict[str, Any], root: Path) -> Path:
    if "onnx" in flavors:
        return root / flavors["onnx"]["data"]
    if "transformers" in flavors:
        return _with_tokenizer(root / flavors["transformers"].get("model_binary", "model"), root)
    if "sentence_transformers" in flavors:
        return root / flavors["python_function"]["data"]
    if "pytorch" in flavors:
        data = root / flavors["pytorch"]["model_data"]
        for logged in sorted(p for p in data.rglob("*") if p.suffix in (".pt2", *PICKLES)):
            return logged
    raise ConfigError(
        f"the MLflow model has the flavors {', '.join(sorted(flavors))}; of these families optinfer reads onnx, "
        "transformers, sentence_transformers and pytorch; model.family: tabular takes every other, with a table's "
        "columns as its inputs"
    )


def _with_tokenizer(model: Path, root: Path) -> Path:
    """MLflow keeps a pipeline's tokenizer apart from its model; they are read from one folder here."""
    for part in root.glob("components/*/*"):
        if not (model / part.name).exists():
            shutil.copy2(part, model / part.name)
    return model


def _from_hub(uri: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    repository, _, revision = uri.removeprefix(_HUB).partition("@")
    try:
        info = HfApi().model_info(repository, revision=revision or None, timeout=_HUB_SECONDS)
        weights = any(file.rfilename.endswith(".safetensors") for file in info.siblings or ())
        # Many repositories hold a dozen ONNX variants beside the weights.
        wanted = [p for p in _HUB_FILES if not (weights and "onnx" in p)]
        return _fetched(
            f"{_HUB}{repository}@{info.sha}",
            lambda out: snapshot_download(repository, revision=info.sha, local_dir=out, allow_patterns=wanted),
        )
    except Exception as error:
        raise ConfigError(
            f"model.path {uri} cannot be fetched: {type(error).__name__}: {error}; check name, revision, network and "
            "HF_TOKEN, or give a local folder"
        ) from error


def _own_code(config: ModelConfig) -> list[Path]:
    """Return the file of the job's own class, where it names one: what it says shapes the answers."""
    return [plugins.code_of(config.own_code)] if config.own_code else []
