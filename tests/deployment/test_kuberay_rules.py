"""The checks of rendered manifests do find what they are for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deployment.kuberay import rules

HEAD = {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "ray-head"}]}}}
CLUSTER = {"headGroupSpec": HEAD, "rayVersion": "2.60.0"}
SELECTED = {"clusterSelector": {"ray.io/cluster": "mine"}}


def document(spec: dict[str, Any], kind: str = "RayJob", name: str = "a") -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"rayClusterSpec": CLUSTER}, None),
        ({"rayClusterSpec": CLUSTER, "backoffLimit": 2, "shutdownAfterJobFinishes": True, "suspend": True}, None),
        ({**SELECTED, "backoffLimit": 2}, "backoffLimit excludes clusterSelector"),
        (
            {"rayClusterSpec": CLUSTER, "submissionMode": "InteractiveMode", "backoffLimit": 1},
            "excludes InteractiveMode",
        ),
        ({"rayClusterSpec": CLUSTER, "submissionMode": "InteractiveMode", "backoffLimit": 0}, None),
        ({"rayClusterSpec": CLUSTER, "suspend": True}, "suspend needs shutdownAfterJobFinishes"),
        ({**SELECTED, "suspend": True, "shutdownAfterJobFinishes": True}, "suspend excludes clusterSelector"),
        ({}, "one of rayClusterSpec and clusterSelector"),
        ({**SELECTED, "submissionMode": "SidecarMode"}, "SidecarMode excludes"),
        ({"rayClusterSpec": CLUSTER, "submissionMode": "SidecarMode", "submitterConfig": {}}, "SidecarMode excludes"),
        ({"rayClusterSpec": CLUSTER, "ttlSecondsAfterFinished": -1}, "a time is negative"),
        ({"rayClusterSpec": CLUSTER, "ttlSecondsAfterFinished": 9}, "ttlSecondsAfterFinished needs"),
        ({"rayClusterSpec": CLUSTER, "activeDeadlineSeconds": 0}, "a time is negative"),
        ({"rayClusterSpec": {**CLUSTER, "authOptions": {"mode": "token"}}}, None),
        ({"rayClusterSpec": {**CLUSTER, "authOptions": {"mode": "token"}, "rayVersion": "2.51.1"}}, "2.52 or later"),
        ({"rayClusterSpec": {"headGroupSpec": HEAD, "authOptions": {"mode": "token"}}}, "2.52 or later"),
        ({"rayClusterSpec": {"headGroupSpec": {"template": {"spec": {"containers": []}}}}}, "needs a container"),
        ({"rayClusterSpec": {"headGroupSpec": {**HEAD, "rayStartParams": {"labels": "a=b"}}}}, "labels belong"),
        (
            {
                "rayClusterSpec": {
                    "headGroupSpec": {**HEAD, "rayStartParams": {"num-cpus": "1"}, "resources": {"CPU": "1"}}
                }
            },
            "said twice",
        ),
        ({"rayClusterSpec": {**CLUSTER, "workerGroupSpecs": [{**HEAD, "minReplicas": 2, "maxReplicas": 1}]}}, "above"),
    ],
)
def test_a_job_that_its_controller_refuses_is_found(spec: dict[str, Any], said: str | None) -> None:
    found = list(rules(document(spec)))
    assert (found == []) if said is None else any(said in line for line in found)


@pytest.mark.parametrize(("kind", "longest"), [("RayCluster", 50), ("RayJob", 47), ("RayCronJob", 36)])
def test_names_have_a_length(kind: str, longest: int) -> None:
    job = {"rayClusterSpec": CLUSTER}
    specs: dict[str, dict[str, Any]] = {"RayCluster": CLUSTER, "RayJob": job, "RayCronJob": {"jobTemplate": job}}
    spec = specs[kind]
    assert not list(rules(document(spec, kind, "a" * longest)))
    assert list(rules(document(spec, kind, "a" * (longest + 1))))


@pytest.mark.parametrize("name", ["1a", "a-", "a.b", "A", "a_b", "-a", ""])
def test_names_are_labels(name: str) -> None:
    assert "the name is no DNS-1035 label" in list(rules(document({"rayClusterSpec": CLUSTER}, name=name)))
