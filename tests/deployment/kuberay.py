"""What KubeRay 1.7 accepts: its CRDs' schemas, and by hand what its CEL rules and its controllers check besides."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.conftest import REPO

# Not in the repository: CRDs are KubeRay's, and 300 kB each.
CRDS = REPO.parent / "shared" / "data" / "kuberay"
LONGEST = {"RayCluster": 50, "RayJob": 47, "RayCronJob": 36}
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def problems(document: dict[str, Any], crds: Path = CRDS) -> list[str]:
    """Return what KubeRay would refuse in a document of its kinds."""
    schema = _schema(crds / f"ray.io_{document['kind'].lower()}s.yaml.gz")
    found = [
        f"{'.'.join(map(str, e.path))}: {e.message}" for e in jsonschema.Draft7Validator(schema).iter_errors(document)
    ]
    return found + list(rules(document))


def _schema(file: Path) -> dict[str, Any]:
    definition = yaml.load(gzip.decompress(file.read_bytes()), yaml.CSafeLoader)
    version = next(v for v in definition["spec"]["versions"] if v["name"] == "v1")
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, which a CRD does not describe
    _close(schema, top=True)
    return schema


def _close(schema: Any, top: bool = False) -> None:
    """Let an unknown key be an error: the API server would drop it without a word."""
    if isinstance(schema, list):
        for part in schema:
            _close(part)
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for part in schema.values():
        _close(part)


def rules(document: dict[str, Any]) -> Iterator[str]:
    """Yield what breaks a rule that no schema says."""
    kind, name, spec = document["kind"], document["metadata"]["name"], document["spec"]
    if not _DNS_1035.fullmatch(name):
        yield "the name is no DNS-1035 label"
    if len(name) > LONGEST[kind]:
        yield f"the name is longer than {LONGEST[kind]}"
    if kind == "RayCronJob":
        yield from _job(spec["jobTemplate"])
    elif kind == "RayJob":
        yield from _job(spec)
    else:
        yield from _cluster(spec)


def _job(spec: dict[str, Any]) -> Iterator[str]:
    mode, selector = spec.get("submissionMode", "K8sJobMode"), spec.get("clusterSelector")
    if selector and spec.get("backoffLimit"):
        yield "backoffLimit excludes clusterSelector"
    if mode == "InteractiveMode" and spec.get("backoffLimit"):
        yield "backoffLimit excludes InteractiveMode"
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        yield "suspend needs shutdownAfterJobFinishes"
    if spec.get("suspend") and selector:
        yield "suspend excludes clusterSelector"
    if not selector and "rayClusterSpec" not in spec:
        yield "one of rayClusterSpec and clusterSelector is needed"
    if mode == "SidecarMode" and (selector or "submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield "SidecarMode excludes clusterSelector and submitter templates"
    if spec.get("ttlSecondsAfterFinished", 0) < 0 or spec.get("activeDeadlineSeconds", 1) <= 0:
        yield "a time is negative"
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    yield from _cluster(spec.get("rayClusterSpec") or {})


def _cluster(spec: dict[str, Any]) -> Iterator[str]:
    auth = spec.get("authOptions", {})
    if auth.get("mode") == "token" and not re.match(r"2\.(5[2-9]|[6-9]\d)\.|[3-9]\.", spec.get("rayVersion", "")):
        yield "token authentication needs rayVersion 2.52 or later"
    groups = [spec[name] for name in ("headGroupSpec",) if name in spec] + spec.get("workerGroupSpecs", [])
    for group in groups:
        if "labels" in group.get("rayStartParams", {}):
            yield "labels belong to the group"
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(group["rayStartParams"]):
            yield "resources are said twice"
        if not group.get("template", {}).get("spec", {}).get("containers"):
            yield "a group needs a container"
        if group.get("minReplicas", 0) > group.get("maxReplicas", 2**31):
            yield "minReplicas is above maxReplicas"
