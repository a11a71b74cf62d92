"""What the targets on Kubernetes share: the job in a ConfigMap, the night's date, and a Ray cluster of pods."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import version

import yaml

from optinfer.deployment.targets import Schedule

Manifest = dict[str, object]
MOUNT = "/etc/optinfer"
ENTRYPOINT = f"python {MOUNT}/night.py"
_HEAD_CPU, _HEAD_MEMORY, _WORKER_CPU, _WORKER_MEMORY = "2", "8Gi", "4", "16Gi"
# Ray's object store; what a container gets by itself is 64 MiB.
_SHM: Manifest = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}}
_WORKERS = 2
_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}

# Python, not `date`: an image without time zones ends with an error there, and not with the date in UTC.
_NIGHT = '''\
"""Starts a night of the job {job}: that of the tick which made this pod, or of a date in its job's name."""

import os
import re
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

ZONE, NAME = ZoneInfo({zone}), {name}
COMMAND = {command}


def night(job):
    """Kubernetes names a CronJob's job by the minute of its tick, since 1970: late or again, the night is the same."""
    if job is None:
        return datetime.now(ZONE).date().isoformat()
    if tick := re.fullmatch(NAME + r"-(\\d{{7,9}})", job):
        return datetime.fromtimestamp(60 * int(tick[1]), ZONE).date().isoformat()
    if day := re.search(r"-(\\d{{4}}-\\d\\d-\\d\\d)$", job):
        return day[1]
    print("which night? name the job", NAME + "-YYYY-MM-DD", file=sys.stderr)
    sys.exit(2)


os.execvp(COMMAND[0], [*COMMAND, "--logical-date", night(os.environ.get("JOB_NAME"))])
'''


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as it is."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
_Dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]


def documents(head: str, manifests: Iterable[Manifest]) -> str:
    """Return manifests as one YAML file that begins with a comment."""
    comment = "".join(f"# {line}\n" for line in head.splitlines())
    return comment + "---\n".join(yaml.dump(m, Dumper=_Dumper, sort_keys=False, width=120) for m in manifests)


def metadata(schedule: Schedule, name: str | None = None) -> Manifest:
    namespace = {"namespace": schedule.options.namespace} if schedule.options.namespace else {}
    labels = {"app.kubernetes.io/name": "optinfer", "app.kubernetes.io/instance": schedule.name}
    return {"name": name or schedule.name, **namespace, "labels": labels}


def config_map(schedule: Schedule) -> Manifest:
    """Return the job and what starts its nights, for pods to mount."""
    command = ["optinfer", *schedule.arguments(f"{MOUNT}/job.yaml")]
    night = _NIGHT.format(
        job=schedule.config.name,
        zone=json.dumps(schedule.cron.zone),
        name=json.dumps(schedule.name),
        command=json.dumps(command),
    )
    files = {"job.yaml": schedule.job.read_text(encoding="utf-8"), "night.py": night}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(schedule), "data": files}


def container(schedule: Schedule, name: str, cpu: str, memory: str, **more: object) -> Manifest:
    """Return a container that may do no more than it must; its limits are its requests."""
    secret = schedule.options.secret
    resources = {"cpu": cpu, "memory": memory}
    if name == "ray-worker" and schedule.config.placement.device == "cuda":
        resources["nvidia.com/gpu"] = "1"
    return {
        "name": name,
        "image": schedule.options.image,
        "resources": {"requests": resources, "limits": resources},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **({"envFrom": [{"secretRef": {"name": secret}}]} if secret else {}),
        **more,
    }


def pod(schedule: Schedule, containers: list[Manifest], **more: object) -> Manifest:
    """Return a pod's spec: not root, no token of the API server, the job at `MOUNT`."""
    return {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": containers,
        **more,
    }


def job_volume(schedule: Schedule) -> Manifest:
    return {"name": "job", "configMap": {"name": schedule.name}}


def cluster(schedule: Schedule, with_job: bool) -> Manifest:
    """Return a RayCluster's spec: a head that scores nothing, and workers; `with_job` the driver runs on its head."""
    most = schedule.options.workers or _WORKERS
    least = 0 if _grows(schedule) else most
    worker = container(schedule, "ray-worker", _WORKER_CPU, _WORKER_MEMORY, volumeMounts=[_mount("shm", "/dev/shm")])
    return {
        "rayVersion": version("ray"),
        "enableInTreeAutoscaling": _grows(schedule),
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": {"spec": _head(schedule, with_job)},
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": least,
                "minReplicas": least,
                "maxReplicas": most,
                "rayStartParams": {},
                "template": {"spec": pod(schedule, [worker], volumes=[_SHM])},
            }
        ],
    }


def _grows(schedule: Schedule) -> bool:
    """Tell a job that waits for an autoscaler: without `max_replicas` it is refused where there are none."""
    return schedule.config.placement.max_replicas is not None


def _head(schedule: Schedule, with_job: bool) -> Manifest:
    mounts, volumes = [_mount("shm", "/dev/shm")], [_SHM]
    if with_job:
        mounts, volumes = [*mounts, _mount("job", MOUNT)], [*volumes, job_volume(schedule)]
    ports = [{"name": name, "containerPort": port} for name, port in _PORTS.items()]
    head = container(schedule, "ray-head", _HEAD_CPU, _HEAD_MEMORY, ports=ports, volumeMounts=mounts)
    # The autoscaler lives beside the head and asks the API server for workers.
    return pod(schedule, [head], volumes=volumes) | {"automountServiceAccountToken": _grows(schedule)}


def _mount(name: str, path: str) -> Manifest:
    return {"name": name, "mountPath": path}


def ray_job(schedule: Schedule, retries: int) -> Manifest:
    """Return a RayJob's spec that brings its own cluster and takes it away again."""
    return {
        "entrypoint": ENTRYPOINT,
        "submissionMode": "K8sJobMode",
        "backoffLimit": retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 3600,
        "rayClusterSpec": cluster(schedule, with_job=True),
    }


def image_note(schedule: Schedule) -> str:
    return (
        f"Rendered by `optinfer schedule`. The image has optinfer and Ray {version('ray')}. Set CPUs, memory and node "
        "selectors\nto your nodes."
    )
