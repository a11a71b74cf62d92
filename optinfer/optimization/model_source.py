"""Where a model comes from: a folder, or one that an installed Python package ships; a local folder and a digest."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

from optinfer.artifact import Artifact
from optinfer.errors import ConfigError

_PACKAGE = "package:"


def locate(path: str) -> Path:
    """Return the absolute local folder of a model.

    Args:
        path: a folder, or `package:<python package>/<folder inside it>`.

    Raises:
        ConfigError: it does not exist or is not a model folder.
    """
    folder = _in_package(path) if path.startswith(_PACKAGE) else Path(path).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"model.path {path} is not a folder; give one with config.json and model.safetensors")
    needed = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if needed or not list(folder.glob("*.safetensors")):
        missing = ", ".join(needed or ["*.safetensors"])
        raise ConfigError(
            f"model.path {path} lacks {missing}; save it with save_pretrained(folder), safetensors format"
        )
    return folder


def _in_package(path: str) -> Path:
    package, _, inner = path.removeprefix(_PACKAGE).partition("/")
    try:
        return Path(str(files(package))) / inner
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"model.path {path}: the Python package {package} is not installed; "
            f"fix: pip install {package.replace('_', '-')}"
        ) from error


def digest(folder: Path) -> str:
    """Return a hex digest of every file's name and content, hidden files left out."""
    total = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = file.relative_to(folder).as_posix()
        if not any(part.startswith((".", "__pycache__")) for part in name.split("/")):
            with open(file, "rb") as content:
                total.update(f"{name}:{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def baseline_artifact(folder: Path, key: str) -> Artifact:
    """Return the user's own folder as the artifact every recipe starts from."""
    return Artifact(path=str(folder), format="huggingface", precision="fp32", key=key)
