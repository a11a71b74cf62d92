"""A Ray cluster of pods, as all our manifests have it: with a token, not root, within limits; its head scores nothing.

Values in, plain manifests out: `submit --render` and the targets of `schedule` on Kubernetes both make theirs here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import yaml

Manifest = dict[str, object]
_HEAD_CPU, _HEAD_MEMORY, _WORKER_CPU, _WORKER_MEMORY = "2", "8Gi", "4", "16Gi"
# Ray's object store; what a container gets by itself is 64 MiB.
_SHM: Manifest = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}}
_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}


@dataclass(frozen=True, kw_only=True)
class Pods:
    """What pods are made from.

    Attributes:
        image: with optinfer and Ray in it.
        secret: whose entries all pods have in their environment; None for none.
        workers: most pods that score; with `grows` an autoscaler brings them, else they are there from the start.
        gpu: each worker has one.
    """

    image: str
    secret: str | None = None
    workers: int = 2
    grows: bool = False
    gpu: bool = False

    def container(self, name: str, cpu: str, memory: str, **more: object) -> Manifest:
        """Return a container that may do no more than it must; its limits are its requests."""
        resources = {"cpu": cpu, "memory": memory}
        if name == "ray-worker" and self.gpu:
            resources["nvidia.com/gpu"] = "1"
        return {
            "name": name,
            "image": self.image,
            "resources": {"requests": resources, "limits": resources},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            **({"envFrom": [{"secretRef": {"name": self.secret}}]} if self.secret else {}),
            **more,
        }

    def cluster(
        self,
        ray_version: str,
        head: Mapping[Mount, Manifest],
        workers: Mapping[Mount, Manifest],
    ) -> Manifest:
        """Return a RayCluster's spec; `head` and `workers` are the volumes of each, by mount, besides Ray's own."""
        least = 0 if self.grows else self.workers
        ports = [{"name": name, "containerPort": port} for name, port in _PORTS.items()]
        top = self.container("ray-head", _HEAD_CPU, _HEAD_MEMORY, ports=ports, volumeMounts=_mounts(head))
        worker = self.container("ray-worker", _WORKER_CPU, _WORKER_MEMORY, volumeMounts=_mounts(workers))
        # The autoscaler lives beside the head and asks the API server for workers.
        pod_of_head = pod([top], volumes=_volumes(head)) | {"automountServiceAccountToken": self.grows}
        return {
            "rayVersion": ray_version,
            "enableInTreeAutoscaling": self.grows,
            "authOptions": {"mode": "token"},
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
                "template": {"spec": pod_of_head},
            },
            "workerGroupSpecs": [
                {
                    "groupName": "workers",
                    "replicas": least,
                    "minReplicas": least,
                    "maxReplicas": self.workers,
                    "rayStartParams": {},
                    "template": {"spec": pod([worker], volumes=_volumes(workers))},
                }
            ],
        }


@dataclass(frozen=True)
class Mount:
    """Where a container has a volume; it only reads there."""

    name: str
    path: str


def pod(containers: list[Manifest], **more: object) -> Manifest:
    """Return a pod's spec: not root, no token of the API server."""
    return {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": containers,
        **more,
    }


def documents(head: str, manifests: Iterable[Manifest]) -> str:
    """Return manifests as one YAML file, after a comment where `head` has one."""
    comment = "".join(f"# {line}\n" for line in head.splitlines())
    dumped = (yaml.dump(m, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True) for m in manifests)
    return comment + "---\n".join(dumped)


def _mounts(volumes: Mapping[Mount, Manifest]) -> list[Manifest]:
    own = [{"name": mount.name, "mountPath": mount.path, "readOnly": True} for mount in volumes]
    return [*own, {"name": "shm", "mountPath": "/dev/shm"}]


def _volumes(volumes: Mapping[Mount, Manifest]) -> list[Manifest]:
    return [*({"name": mount.name, **volume} for mount, volume in volumes.items()), _SHM]


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
