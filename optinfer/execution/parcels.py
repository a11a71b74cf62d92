"""Files that a node lacks come from one that has them, by content, once a node: no disk need be shared.

Replicas fetch from the driver's node; it fetches from the node that proved a variant, which had the model from it.
Nothing is sent that no node asks for: the first replica of a node that finds a folder missing has it read, piece by
piece, by tasks where it is. What came is checked by its digest, and kept in the node's own home.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from optinfer.errors import OptinferError
from optinfer.execution.task import ScoringTask
from optinfer.inference.replica import ReplicaSettings
from optinfer.models.artifact import Artifact
from optinfer.system import home
from optinfer.system.contents import Listed, listed

_PIECE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Parcels:
    """What a node may have to fetch.

    Attributes:
        node: Ray's id of the node that has the files.
        folders: folder -> the files in it that are loaded.
        at_hand: folder there -> the same one here, where that is known.
    """

    node: str
    folders: Mapping[str, tuple[str, ...]]
    at_hand: Mapping[str, str] = field(default_factory=dict)

    def placed(self, settings: ReplicaSettings) -> ReplicaSettings:
        """Return a replica's settings with every folder where it is on this node.

        Raises:
            OptinferError: one is missing here, and cannot be had from the other node.
        """
        return replace(settings, model=self.artifact(settings.model), artifact=self.artifact(settings.artifact))

    def artifact(self, artifact: Artifact) -> Artifact:
        """Return an artifact where it is on this node; raises as `placed` does."""
        conversions = tuple({**one, "folder": self._here(str(one["folder"]))} for one in artifact.conversions)
        return replace(artifact, path=self._here(artifact.path), conversions=conversions)

    def _here(self, folder: str) -> str:
        if folder in self.at_hand:
            return self.at_hand[folder]
        if all(os.path.isfile(os.path.join(folder, name)) for name in self.folders[folder]):
            return folder  # whether they are the same files, a replica finds out
        files = self._listed(folder)
        target = _kept_as(files)
        with home.writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{target}.lock"):  # of many replicas of a node, one fetches
                if not _is_there(target):
                    self._fetch(folder, files, target)
        return str(target)

    def _fetch(self, folder: str, files: Sequence[Listed], target: Path) -> None:
        if other := home.bring(target, files, partial(self._pieces, folder)):
            raise OptinferError(
                f"{folder}/{other.name} came to {socket.gethostname()} with another content than it has on node "
                f"{self.node[:8]}: it was changed meanwhile, or its way is damaged; run the same command again"
            )

    def _listed(self, folder: str) -> list[Listed]:
        files: list[Listed] = self._asked(folder, _listing, folder, self.folders[folder])
        return files

    def _pieces(self, folder: str, file: Listed) -> Iterator[bytes]:
        for start in range(0, file.size, _PIECE_BYTES):
            yield self._asked(folder, _piece, os.path.join(folder, file.name), start)

    def _asked(self, folder: str, what: Any, *arguments: Any) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(self.node, soft=False)
        asked = ray.remote(what).options(num_cpus=0, max_retries=3, scheduling_strategy=there)
        try:
            return ray.get(asked.remote(*arguments))
        except (ray.exceptions.RayError, OSError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise OptinferError(
                f"node {socket.gethostname()} has no {folder}, and cannot fetch it from node {self.node[:8]}: "
                f"{reason}; start the job on a node of the cluster (`optinfer submit`), or put model.path and "
                "$OPTINFER_HOME on storage that all nodes share"
            ) from error


def parcels(task: ScoringTask) -> Parcels:
    """Return what replicas of a task may fetch from this process's node."""
    return _parcels([one for settings in task.loaded for one in (settings.artifact, settings.model)])


def parcels_of(model: Artifact) -> Parcels:
    """Return what whoever proves variants of a model may fetch from this process's node."""
    return _parcels([model])


def kept_for_others(settings: ReplicaSettings) -> Parcels:
    """Return what others may fetch of a replica that was made on this node.

    It is kept under the name that it will have where it was fetched: this node need not fetch its own.
    """
    offered = _parcels([settings.artifact, settings.model])
    for folder, names in offered.folders.items():
        files = _listing(folder, names)
        target = _kept_as(files)
        with home.writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{target}.lock"):
                if not _is_there(target):
                    home.note_files(target, files)
                    home.remove(target)
                    target.symlink_to(folder, target_is_directory=True)
    return offered


def _parcels(artifacts: Sequence[Artifact]) -> Parcels:
    import ray

    folders: dict[str, tuple[str, ...]] = {}
    for one in artifacts:
        folders[one.path] = tuple(sorted(file.relative_to(one.path).as_posix() for file in one.files))
        for conversion in one.conversions:
            folder = Path(str(conversion["folder"]))
            found = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
            folders[str(folder)] = tuple(sorted(found))
    return Parcels(ray.get_runtime_context().get_node_id(), folders)


def _is_there(target: Path) -> bool:
    """Tell whether a folder was fetched whole: its digests were held then, and each replica holds them again."""
    return target.is_dir() and home.is_whole(target, read=False)


def _kept_as(files: Sequence[Listed]) -> Path:
    """Return where a folder of these files is kept once it was fetched."""
    key = hashlib.sha256(json.dumps([vars(file) for file in files]).encode()).hexdigest()[:16]
    return home.home() / "fetched" / key


def _listing(folder: str, names: Sequence[str]) -> list[Listed]:
    return listed(Path(folder), names)


def _piece(path: str, start: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(_PIECE_BYTES)
