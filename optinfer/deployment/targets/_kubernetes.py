"""What the targets on Kubernetes share: the job in a ConfigMap, the night's date, and a Ray cluster of pods."""

from __future__ import annotations

import json
from importlib.metadata import version

from optinfer.deployment.pods import Manifest, Mount, Pods
from optinfer.deployment.targets import Schedule

MOUNT = "/etc/optinfer"
JOB = Mount("job", MOUNT)
ENTRYPOINT = f"python {MOUNT}/night.py"
_WORKERS = 2

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


def pods(schedule: Schedule) -> Pods:
    """Return what the schedule's pods are made from."""
    return Pods(
        image=str(schedule.options.image),
        secret=schedule.options.secret,
        workers=schedule.options.workers or _WORKERS,
        # A job that waits for an autoscaler says so: without `max_replicas` it is refused where there are no workers.
        grows=schedule.config.placement.max_replicas is not None,
        gpu=schedule.config.placement.device == "cuda",
    )


def job_volume(schedule: Schedule) -> Manifest:
    return {"configMap": {"name": schedule.name}}


def cluster(schedule: Schedule, with_job: bool) -> Manifest:
    """Return a RayCluster's spec; `with_job` the driver runs on its head."""
    head = {JOB: job_volume(schedule)} if with_job else {}
    return pods(schedule).cluster(version("ray"), head, {})


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
