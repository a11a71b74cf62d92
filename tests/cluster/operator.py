"""What refuses a manifest of KubeRay 1.7: the API server by its CRDs, and then its controller.

The CRDs are files outside the repository; what only the controller checks is written down here, from its `validation.go`.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import pytest
import yaml

from tests.cluster.manifests import Manifest
from tests.conftest import REPO

CRDS = REPO.parent / "shared" / "data" / "kuberay"
PLURALS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayCronJob": "raycronjobs"}
LONGEST = {"RayCluster": 53, "RayJob": 47, "RayCronJob": 36}
CRON_FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


@cache
def crd(kind: str) -> Manifest:
    """Return the schema of a kind, version v1."""
    file = CRDS / f"ray.io_{PLURALS[kind]}.yaml.gz"
    if not file.exists():
        pytest.skip(f"KubeRay's CRDs are not in {CRDS}")
    versions = yaml.safe_load(gzip.decompress(file.read_bytes()))["spec"]["versions"]
    schema: Manifest = next(one for one in versions if one["name"] == "v1")["schema"]["openAPIV3Schema"]
    return schema


def strict(schema: Any) -> Any:
    """Return a schema that refuses fields it does not name: the API server drops them, which nobody notices."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    open_ended = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict) and not open_ended:
        closed["additionalProperties"] = False
    return closed


def refused_by_api_server(manifest: Manifest) -> list[str]:
    """Return what the API server would refuse, and fields that it would drop."""
    schema = crd(manifest["kind"])
    validator = jsonschema.Draft7Validator(strict(schema))
    found = [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(manifest)]
    return [*found, *_doubled(schema, manifest, "$"), *_cel(schema, manifest, "$")]


def _within(schema: Manifest, value: Any, where: str) -> Iterator[tuple[Manifest, Any, str]]:
    """Yield a value and all in it, each with its schema."""
    yield schema, value, where
    if isinstance(value, dict):
        for key, one in value.items():
            inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if isinstance(inner, dict):
                yield from _within(inner, one, f"{where}.{key}")
    elif isinstance(value, list) and "items" in schema:
        for number, one in enumerate(value):
            yield from _within(schema["items"], one, f"{where}[{number}]")


def _doubled(schema: Manifest, manifest: Manifest, where: str) -> Iterator[str]:
    """Yield lists that hold a key twice where they are maps to the API server."""
    for inner, value, path in _within(schema, manifest, where):
        if inner.get("x-kubernetes-list-type") == "map" and isinstance(value, list):
            keys = [tuple(str(one.get(key)) for key in inner["x-kubernetes-list-map-keys"]) for one in value]
            if len(set(keys)) != len(keys):
                yield f"{path}: {keys} holds one twice"


def _cel(schema: Manifest, manifest: Manifest, where: str) -> Iterator[str]:
    """Yield the messages of rules that do not hold; those about a change of an object need an older one."""
    for inner, value, path in _within(schema, manifest, where):
        for rule in inner.get("x-kubernetes-validations", []):
            if "oldSelf" not in rule["rule"] and not _holds(rule["rule"], value):
                yield f"{path}: {rule['message']}"


def _holds(rule: str, value: Any) -> bool:
    celpy = pytest.importorskip("celpy", reason="cel-python is not installed")
    environment = celpy.Environment()
    return bool(environment.program(environment.compile(rule)).evaluate({"self": celpy.json_to_cel(value)}))


def refused_by_controller(manifest: Manifest) -> list[str]:
    """Return what KubeRay's controller would refuse."""
    kind, spec = manifest["kind"], manifest["spec"]
    refused = list(_name(kind, manifest["metadata"]["name"]))
    if kind == "RayCluster":
        return [*refused, *_cluster(spec)]
    if kind == "RayCronJob":
        return [*refused, *_schedule(spec), *_job(spec["jobTemplate"])]
    return [*refused, *_job(spec)]


def _name(kind: str, name: str) -> Iterator[str]:
    if len(name) > LONGEST[kind]:
        yield f"{kind} name should be no more than {LONGEST[kind]} characters"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"{kind} name should be a valid DNS1035 label"


def _schedule(spec: Manifest) -> Iterator[str]:
    schedule = spec["schedule"]
    if "TZ" in schedule:
        yield "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
    elif not schedule.startswith("@") and not _is_cron(schedule.split()):
        yield "invalid cron schedule"
    if "timeZone" in spec:
        try:
            ZoneInfo(spec["timeZone"])
        except (KeyError, ValueError, OSError):
            yield "invalid time zone"


def _is_cron(fields: list[str]) -> bool:
    """Tell whether these are five numbers, lists, ranges or steps (names of days and months are not looked for)."""
    if len(fields) != len(CRON_FIELDS):
        return False
    for field, (least, most) in zip(fields, CRON_FIELDS, strict=True):
        numbers = [int(number) for number in re.findall(r"\d+", re.sub(r"/\d+", "", field))]
        if not re.fullmatch(r"[\d*/,-]+", field) or any(not least <= number <= most for number in numbers):
            return False
    return True


def _job(spec: Manifest) -> Iterator[str]:
    selector, own = spec.get("clusterSelector"), spec.get("rayClusterSpec")
    mode, retries = spec.get("submissionMode", "K8sJobMode"), spec.get("backoffLimit", 0)
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        yield "a RayJob with shutdownAfterJobFinishes set to false is not allowed to be suspended"
    if spec.get("suspend") and selector:
        yield "the ClusterSelector mode doesn't support the suspend operation"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not spec.get("shutdownAfterJobFinishes"):
        yield "a RayJob with shutdownAfterJobFinishes set to false cannot have TTLSecondsAfterFinished"
    if own is None and not selector:
        yield "one of RayClusterSpec or ClusterSelector must be set"
    if selector is not None and not selector.get("ray.io/cluster"):
        yield "cluster name in ClusterSelector should not be empty"
    if selector and mode == "SidecarMode":
        yield "ClusterSelector is not supported in SidecarMode"
    if retries > 0 and (selector or mode == "InteractiveMode"):
        yield f"BackoffLimit is incompatible with {'ClusterSelector mode' if selector else mode}"
    if mode == "SidecarMode":
        yield from _sidecar(spec)
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(key, 1) <= 0:
            yield f"{key} must be a positive integer"
    if not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML") or "{}"), dict):
        yield "failed to unmarshal RuntimeEnvYAML"
    if own is not None:
        if own.get("authOptions", {}).get("enableK8sTokenAuth"):
            yield "K8s token auth mode is currently not supported for RayJob"
        if "upgradeStrategy" in own:
            yield "upgradeStrategy cannot be set when RayCluster is created by RayJob"
        yield from _cluster(own)


def _sidecar(spec: Manifest) -> Iterator[str]:
    for key in ("submitterPodTemplate", "submitterConfig"):
        if key in spec:
            yield f"SidecarMode doesn't support {key}"
    head = spec.get("rayClusterSpec", {}).get("headGroupSpec", {}).get("template", {}).get("spec", {})
    if head.get("restartPolicy", "Never") != "Never":
        yield "restartPolicy for head Pod should be Never or unset when using SidecarMode"


def _cluster(spec: Manifest) -> Iterator[str]:
    scaling, options = spec.get("enableInTreeAutoscaling", False), spec.get("autoscalerOptions", {})
    second = scaling and options.get("version") == "v2"
    groups = [("head", spec["headGroupSpec"]), *((one["groupName"], one) for one in spec.get("workerGroupSpecs", []))]
    for name, group in groups:
        yield from _group(name, group, second)
        if name != "head":
            yield from _workers(name, group, scaling, second)
    variables = {one["name"] for one in spec["headGroupSpec"]["template"]["spec"]["containers"][0].get("env", [])}
    if "RAY_REDIS_ADDRESS" in variables and "gcsFaultToleranceOptions" not in spec:
        yield "RAY_REDIS_ADDRESS is set, but GcsFaultToleranceOptions is not"
    if "RAY_enable_autoscaler_v2" in variables and (second or not scaling):
        yield "RAY_enable_autoscaler_v2 and autoscalerOptions.version exclude each other"
    if spec.get("authOptions", {}).get("mode") == "token":
        version = tuple(int(part) for part in re.findall(r"\d+", spec.get("rayVersion", ""))[:2])
        if version < (2, 52):
            yield "authOptions.mode is 'token' but minimum Ray version is 2.52.0"
    if "networkPolicy" in spec or "tlsOptions" in spec or "historyServerOptions" in spec:
        yield "needs a feature gate that is off by default"


def _group(name: str, group: Manifest, second_autoscaler: bool) -> Iterator[str]:
    start, pod = group.get("rayStartParams", {}), group["template"]["spec"]
    if not pod.get("containers"):
        yield f"{name} should have at least one container"
    if group.get("resources") and set(start) & {"num-cpus", "num-gpus", "memory", "resources"}:
        yield f"resource fields should not be set in both rayStartParams and Resources for {name} group"
    if "labels" in start:
        yield f"rayStartParams['labels'] is not supported for {name} group"
    if second_autoscaler and pod.get("restartPolicy", "Never") != "Never":
        yield f"restartPolicy for {name} should be Never or unset when using autoscaler V2"


def _workers(name: str, group: Manifest, scaling: bool, second_autoscaler: bool) -> Iterator[str]:
    least, most = group.get("minReplicas"), group.get("maxReplicas")
    if not scaling and (least is None or most is None):
        yield f"worker group {name} must set both minReplicas and maxReplicas when autoscaling is disabled"
    if least is not None and most is not None and not 0 <= least <= most:
        yield f"worker group {name} has minReplicas {least} greater than maxReplicas {most}"
    if group.get("suspend"):
        yield f"worker group {name} cannot be suspended"
    if "idleTimeoutSeconds" in group and not second_autoscaler:
        yield f"worker group {name}: idleTimeoutSeconds is set, but autoscaler v2 is not enabled"
    if group.get("priority", 0) and not second_autoscaler:
        yield f"worker group {name}: priority is set, but autoscaler v2 is not enabled"
