"""A CronJob whose pod waits in `optinfer submit`: `Forbid` protects for as long as that pod lives, and no longer."""

from __future__ import annotations

import dataclasses
import shlex

from optinfer.deployment.pods import Manifest, documents, pod
from optinfer.deployment.targets import Schedule, Target
from optinfer.deployment.targets import _kubernetes as k8s
from optinfer.errors import ConfigError

# Codes of optinfer that another try would give again.
_FINAL = [2, 3, 4, 5]
_LATEST_START = 6 * 3600


def _cron_job(schedule: Schedule, own_cluster: bool) -> Manifest:
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": k8s.metadata(schedule),
        "spec": {
            "schedule": schedule.cron.expression,
            "timeZone": schedule.cron.zone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": _LATEST_START,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 7,
            "jobTemplate": {"spec": _job(schedule, own_cluster)},
        },
    }


def _job(schedule: Schedule, own_cluster: bool) -> Manifest:
    """Return the job of one night; a pod that was evicted is followed by one that attaches to the same submission."""
    submit = k8s.pods(schedule).container(
        "submit",
        "500m",
        "1Gi",
        command=["python", f"{k8s.MOUNT}/night.py"],
        env=[*_tick(), *(_token(schedule) if own_cluster else ())],
        volumeMounts=[{"name": k8s.JOB.name, "mountPath": k8s.JOB.path}],
    )
    return {
        "backoffLimit": 3,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"containerName": "submit", "operator": "In", "values": _FINAL}}
            ]
        },
        "template": {
            "spec": pod([submit], restartPolicy="Never", volumes=[{"name": k8s.JOB.name, **k8s.job_volume(schedule)}]),
        },
    }


def _tick() -> list[Manifest]:
    name = {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}
    return [{"name": "JOB_NAME", "valueFrom": {"fieldRef": name}}]


def _token(schedule: Schedule) -> list[Manifest]:
    """Return what the operator made for the cluster: a secret of its name."""
    key = {"name": schedule.name, "key": "auth_token"}
    return [
        {"name": "RAY_AUTH_MODE", "value": "token"},
        {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": key}},
    ]


def _render(schedule: Schedule) -> dict[str, str]:
    own = schedule.options.address is None
    if not own and schedule.options.workers is not None:
        raise ConfigError("--workers has no use with --address: that cluster has its own; leave one of them out")
    if own:
        address = f"http://{schedule.name}-head-svc:8265"
        schedule = dataclasses.replace(schedule, options=dataclasses.replace(schedule.options, address=address))
    note = (
        f"{k8s.image_note(schedule)}\nA night that was missed: kubectl create job {schedule.name}-2026-11-25 "
        f"--from=cronjob/{schedule.name}"
    )
    files = {
        "configmap.yaml": documents("Rendered by `optinfer schedule`.", [k8s.config_map(schedule)]),
        "cronjob.yaml": documents(note, [_cron_job(schedule, own)]),
    }
    if own:
        manifest: Manifest = {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": k8s.metadata(schedule),
            "spec": k8s.cluster(schedule, with_job=False),
        }
        files["raycluster.yaml"] = documents(k8s.image_note(schedule), [manifest])
    return files


target = Target(
    about="a CronJob whose pod waits for the job; its Ray cluster stands, or is yours",
    render=_render,
    then=lambda schedule: (f"kubectl apply -f {shlex.quote(str(schedule.out))}",),
    takes=("address", "retries", "image", "namespace", "workers", "secret"),
    needs=("image",),
    longest_name=50,  # of a RayCluster; a CronJob's may have 52
    in_pods=True,
)
