"""A RayJob of one night, the next: for a scheduler that creates manifests. Its name has the date, so it exists once."""

from __future__ import annotations

import shlex

from optinfer.deployment.pods import Manifest, documents
from optinfer.deployment.targets import Schedule, Target
from optinfer.deployment.targets import _kubernetes as k8s


def _name(schedule: Schedule) -> str:
    return f"{schedule.name}-{schedule.night}"


def _render(schedule: Schedule) -> dict[str, str]:
    spec = k8s.ray_job(schedule, schedule.retries)
    spec["entrypoint"] = f"env JOB_NAME={_name(schedule)} {k8s.ENTRYPOINT}"
    manifest: Manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": k8s.metadata(schedule, _name(schedule)),
        "spec": spec,
    }
    note = (
        f"{k8s.image_note(schedule)}\nOne night; another has its date where this has {schedule.night}. A retry gets\n"
        "a new cluster and goes on from what is committed."
    )
    return {
        "configmap.yaml": documents("Rendered by `optinfer schedule`.", [k8s.config_map(schedule)]),
        f"rayjob-{schedule.night}.yaml": documents(note, [manifest]),
    }


target = Target(
    about="a RayJob of one night, with its own cluster",
    render=_render,
    then=lambda schedule: (
        f"kubectl apply -f {shlex.quote(str(schedule.out / 'configmap.yaml'))}",
        f"kubectl create -f {shlex.quote(str(schedule.out / f'rayjob-{schedule.night}.yaml'))}",
    ),
    takes=("retries", "image", "namespace", "workers", "secret"),
    needs=("image",),
    longest_name=36,  # with the date 47
    in_pods=True,
)
