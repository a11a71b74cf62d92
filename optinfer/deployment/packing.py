"""What travels with a job: its file with all changes made, the code it names, and small models; nothing else does.

Not the folder it lies in: that has data, environments and secrets.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optinfer.config import JobConfig, ModelConfig
from optinfer.data.storage import absolute, is_local
from optinfer.deployment import code
from optinfer.errors import ConfigError, redact
from optinfer.job_file import parse_job

JOB_FILE = "job.yaml"
# Ray takes packages of some hundred megabytes and keeps them in its head's memory; this is well below.
LARGEST = 100 * 10**6
_MODEL_FOLDER = "_model"
_FINGERPRINT = 12


@dataclass(frozen=True)
class Package:
    """A job as the cluster gets it.

    Args:
        job: with absolute paths, and its models where they lie in the package.
        files: what lies beside the job file, by name in the package.
        notes: what a person has to know of it, a line each.
        fingerprint: digest of the job and its files: two packages with the same one are the same job.
    """

    job: JobConfig
    files: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fingerprint: str = ""

    @property
    def text(self) -> str:
        """The job file."""
        import yaml

        return yaml.safe_dump(_whole(self.job), sort_keys=False, allow_unicode=True)

    def write(self, folder: Path) -> None:
        """Write all of it into an empty folder."""
        (folder / JOB_FILE).write_text(self.text, encoding="utf-8")
        for name, path in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)


def pack(job: JobConfig, shared: Iterable[str] = ()) -> Package:
    """Return what travels with a job.

    Args:
        job: as it would run here.
        shared: folders that the cluster's nodes have under the same path: what lies there stays there.

    Raises:
        ConfigError: a model or the code is not there, or all of it is too large to travel.
    """
    places = tuple(Path(absolute(folder)) for folder in shared)
    files = code.travelling(job.model.own_code) if job.model.own_code else {}
    notes = _code_notes(job.model.own_code, files)
    paths, stay = {}, []
    for at, (key, model) in enumerate(job.models.items()):
        paths[key], found = _model(key, model, places, f"{_MODEL_FOLDER}-{at}" if at else _MODEL_FOLDER)
        files |= found
        _require_small(f"{key} {redact(model.path)}", files.values())
        stay += [(key, paths[key])] if _names_a_file(model.path) and not found else []
    placed = _placed(job, paths)
    notes += [note for key, url in _local_paths(placed, stay) if (note := _local_note(key, url, places))]
    return Package(placed, files, tuple(notes), _fingerprint(placed, files))


def _code_notes(spec: str | None, files: dict[str, Path]) -> list[str]:
    if spec and not files:
        return [f"model.class {spec} is installed here: it must be installed on the cluster, too"]
    notes = [f"code that travels: {', '.join(files)}"] if files else []
    if behind := code.left_behind(files):
        notes.append(f"stays here, for only Python files travel: {', '.join(behind)}")
    return notes


def _model(key: str, config: ModelConfig, places: tuple[Path, ...], into: str) -> tuple[str, dict[str, Path]]:
    """Return a model's path on the cluster, and its files by name, in the folder `into`, if they travel."""
    if not _names_a_file(config.path):
        return config.path, {}
    here = Path(absolute(config.path))
    if _is_shared(here, places) or not here.exists():
        return str(here), {}
    from optinfer.models.source import locate

    _require_small(f"{key} {redact(config.path)}", [here])  # before all of it is read
    found = locate(config)
    folder = Path(found.path)
    if found.beside is None:
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    else:
        names = [found.entry, *found.beside]
    files = {f"{into}/{name}": folder / name for name in names if not _is_hidden(name)}
    return (into if found.beside is None else f"{into}/{found.entry}"), files


def _names_a_file(path: str) -> bool:
    """Tell a path of this machine from what a package, MLflow or a store has."""
    return is_local(path) and not path.startswith(("package:", "models:/", "runs:/"))


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__pycache__")) for part in name.split("/"))


def _require_small(model: str, paths: Iterable[Path]) -> None:
    files = (file for path in paths for file in ([path] if path.is_file() else path.rglob("*")))
    size = sum(file.stat().st_size for file in files if file.is_file())
    if size > LARGEST:
        raise ConfigError(
            f"{model} and what travels with it are {size / 1e6:,.0f} MB, more than the "
            f"{LARGEST / 1e6:,.0f} MB that travel with a job; put the model on a store (s3://…), register it "
            "(models:/…), or name a folder that all nodes have under the same path with --shared FOLDER"
        )


def _whole(job: JobConfig) -> dict[str, Any]:
    """Return the job as its file has it, to run elsewhere: with all of the webhook's address, which records lack."""
    raw = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if job.notify.url:
        raw["notify"]["url"] = job.notify.url
    return raw


def _placed(job: JobConfig, models: Mapping[str, str]) -> JobConfig:
    """Return the job with paths that mean the same wherever it starts; `models` are those of its models, by key."""
    raw = _whole(job)
    raw["source"]["path"], raw["sink"]["path"] = absolute(job.source.path), absolute(job.sink.path)
    raw["model"]["path"] = models["model.path"]
    for name, arm in raw.get("experiment", {}).get("arms", {}).items():
        if path := models.get(f"experiment.arms.{name}.model"):
            arm["model"] = path
    return parse_job(raw)


def _local_paths(job: JobConfig, models: list[tuple[str, str]]) -> list[tuple[str, str]]:
    paths = [("source.path", job.source.path), ("sink.path", job.sink.path), *models]
    if uri := job.tracking.uri:
        scheme, has_scheme, rest = uri.partition("://")
        if not has_scheme or scheme in ("file", "sqlite"):
            paths.append(("tracking.uri", rest.removeprefix("/") if scheme == "sqlite" else uri))
    return [(key, path) for key, path in paths if is_local(path)]


def _local_note(key: str, url: str, places: tuple[Path, ...]) -> str | None:
    path = Path(url.removeprefix("file://"))
    if _is_shared(path, places):
        return None
    return f"{key} {path} does not travel: every node of the cluster must have it there (--shared FOLDER if so)"


def _is_shared(path: Path, places: tuple[Path, ...]) -> bool:
    return any(place == path or place in path.parents for place in places)


def _fingerprint(job: JobConfig, files: Mapping[str, Path]) -> str:
    total = hashlib.sha256(json.dumps(job.model_dump(mode="json", by_alias=True), sort_keys=True).encode())
    for name, path in sorted(files.items()):
        with open(path, "rb") as content:
            total.update(f"{name}:{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:_FINGERPRINT]
