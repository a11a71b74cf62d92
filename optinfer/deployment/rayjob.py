"""A job as a RayJob for KubeRay, which makes a cluster for it and takes that away afterwards.

Files travel in a ConfigMap, which holds a megabyte: the job and its code, no model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from optinfer.deployment.pods import Manifest, Mount, Pods, documents
from optinfer.errors import ConfigError

JOB_FOLDER = "/opt/optinfer/job"
# KubeRay's own limit: it makes names of pods and services from it.
LONGEST_NAME = 47
_LARGEST = 1_000_000
_FILES = Mount("job", JOB_FOLDER)


@dataclass(frozen=True)
class RayJob:
    """What a manifest is made from.

    Args:
        name: of the job; what Kubernetes does not take in it becomes a dash.
        entrypoint: the command, which finds `files` in JOB_FOLDER.
        image: with optinfer and Ray in it.
        ray_version: that of the image.
        files: texts by name.
        env: variables of driver and replicas.
    """

    name: str
    entrypoint: str
    image: str
    ray_version: str
    files: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


def manifest(job: RayJob) -> str:
    """Return a ConfigMap and a RayJob as YAML.

    Raises:
        ConfigError: the files are too large for a ConfigMap.
    """
    size = sum(len(text.encode()) for text in job.files.values())
    if size > _LARGEST:
        raise ConfigError(
            f"the job's files are {size / 1e6:.1f} MB and a ConfigMap holds {_LARGEST / 1e6:g}; "
            "install the code in the image instead"
        )
    return documents("", [_config_map(job), _ray_job(job)])


def kubernetes_name(name: str, longest: int = LONGEST_NAME) -> str:
    """Return a name as a DNS-1035 label: small letters, digits and dashes, a letter first."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    label = label if label[:1].isalpha() else f"job-{label}".rstrip("-")
    return label[:longest].rstrip("-")


def _config_map(job: RayJob) -> Manifest:
    keys = _keys(job.files)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{kubernetes_name(job.name)}-files"},
        "data": {keys[name]: text for name, text in job.files.items()},
    }


def _ray_job(job: RayJob) -> Manifest:
    env, keys = {"PYTHONPATH": JOB_FOLDER, **job.env}, _keys(job.files)
    items = [{"key": keys[name], "path": name} for name in job.files]
    volumes: dict[Mount, Manifest] = {
        _FILES: {"configMap": {"name": f"{kubernetes_name(job.name)}-files", "items": items}}
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": kubernetes_name(job.name)},
        "spec": {
            "entrypoint": job.entrypoint,
            "runtimeEnvYAML": yaml.safe_dump({"env_vars": env}, sort_keys=False),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 3600,
            # Replicas import the job's code, too.
            "rayClusterSpec": Pods(image=job.image, workers=1).cluster(job.ray_version, volumes, volumes),
        },
    }


def _keys(files: Mapping[str, str]) -> dict[str, str]:
    """Return each file's key: a ConfigMap takes no slashes."""
    return {name: f"{number}-{re.sub(r'[^A-Za-z0-9._-]', '-', name)}" for number, name in enumerate(files)}
