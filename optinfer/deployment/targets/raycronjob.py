"""KubeRay's RayCronJob, which is alpha: each tick makes a RayJob with a cluster of its own."""

from __future__ import annotations

import shlex

from optinfer.deployment.pods import Manifest, documents
from optinfer.deployment.targets import Schedule, Target
from optinfer.deployment.targets import _kubernetes as k8s

_ALPHA = (
    "RayCronJob is alpha in KubeRay 1.7: its operator needs the feature gate RayCronJob=true, nothing keeps two of its "
    "jobs apart (the second ends with code 5), and a failed night is not tried again; --target k8s has none of that"
)


def _render(schedule: Schedule) -> dict[str, str]:
    manifest: Manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCronJob",
        "metadata": k8s.metadata(schedule),
        "spec": {
            "schedule": schedule.cron.expression,
            "timeZone": schedule.cron.zone,
            # A try after midnight would be for the wrong night: the operator tells pods nothing of their tick.
            "jobTemplate": k8s.ray_job(schedule, retries=0),
        },
    }
    note = f"ALPHA. {_ALPHA}.\n{k8s.image_note(schedule)}"
    return {
        "configmap.yaml": documents("Rendered by `optinfer schedule`.", [k8s.config_map(schedule)]),
        "raycronjob.yaml": documents(note, [manifest]),
    }


target = Target(
    about="KubeRay's RayCronJob (alpha)",
    render=_render,
    then=lambda schedule: (f"kubectl apply -f {shlex.quote(str(schedule.out))}",),
    takes=("image", "namespace", "workers", "secret"),
    needs=("image",),
    longest_name=36,
    in_pods=True,
    warnings=(_ALPHA,),
)
