"""Every manifest of cluster/kuberay is accepted by Kubernetes and KubeRay, and gives a pod no more than it needs."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from optinfer.job_file import parse_job
from tests.cluster.manifests import KUBERAY, OVERLAYS, RUNS, Manifest, kustomized, pod_templates, run_on
from tests.cluster.operator import PLURALS, refused_by_api_server, refused_by_controller
from tests.conftest import REPO

SHIPPED = [*(f"overlays/{name}" for name in OVERLAYS), *(f"runs/{name}" for name in RUNS), "demo"]
KUBERNETES = "1.37"
RESOURCES = {"cpu", "memory", "ephemeral-storage"}
SECRETS = KUBERAY / "secrets.example.yaml"
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|ACCESS_KEY")


@pytest.fixture(params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> tuple[Manifest, ...]:
    return kustomized(KUBERAY / request.param)


@pytest.fixture(params=list(itertools.product(RUNS, OVERLAYS)), ids="-on-".join)
def on_any_nodes(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Manifest, ...]:
    run, overlay = request.param
    return run_on(run, overlay, tmp_path / "kuberay")


def of_kind(manifests: tuple[Manifest, ...], *kinds: str) -> list[Manifest]:
    return [one for one in manifests if one["kind"] in kinds]


def one_of(run: str, kind: str) -> Manifest:
    (manifest,) = of_kind(kustomized(KUBERAY / run), kind)
    return copy.deepcopy(manifest)


def test_kuberay_accepts_every_shipped_manifest(shipped: tuple[Manifest, ...]) -> None:
    for manifest in of_kind(shipped, *PLURALS):
        assert refused_by_controller(manifest) == []
        assert refused_by_api_server(manifest) == []


def test_kuberay_accepts_every_run_on_every_kind_of_node(on_any_nodes: tuple[Manifest, ...]) -> None:
    for manifest in of_kind(on_any_nodes, *PLURALS):
        assert refused_by_controller(manifest) == []
        assert refused_by_api_server(manifest) == []


def test_kubernetes_accepts_every_core_kind_and_pod(shipped: tuple[Manifest, ...]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed").validate
    for manifest in shipped:
        if manifest["kind"] not in PLURALS:
            validate(manifest, KUBERNETES, strict=True)
        for name, template in pod_templates(manifest):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **template["metadata"]}}
            assert validate({**pod, "spec": template["spec"]}, KUBERNETES, strict=True) == KUBERNETES, name


def test_what_is_sent_is_what_its_folder_says(shipped: tuple[Manifest, ...], request: pytest.FixtureRequest) -> None:
    kinds = {manifest["kind"] for manifest in shipped} & {*PLURALS, "CronJob"}
    expected = {
        "demo": {"RayJob"}, "runs/rayjob": {"RayJob"}, "runs/raycronjob": {"RayCronJob"}, "runs/cronjob": {"RayCluster", "CronJob"}
    }  # fmt: skip
    assert kinds == expected.get(request.node.callspec.params["shipped"], {"RayCluster"})


def test_no_secret_and_no_claim_is_shipped(shipped: tuple[Manifest, ...]) -> None:
    text = yaml.safe_dump_all(shipped)
    assert not of_kind(shipped, "Secret", "PersistentVolumeClaim")
    assert "persistentVolumeClaim" not in text
    assert "REPLACE" not in text


def test_a_run_takes_the_overlay_s_cluster_as_it_is() -> None:
    cluster = one_of("overlays/cpu", "RayCluster")["spec"]
    assert one_of("runs/rayjob", "RayJob")["spec"]["rayClusterSpec"] == cluster
    assert one_of("runs/raycronjob", "RayCronJob")["spec"]["jobTemplate"]["rayClusterSpec"] == cluster


def containers(manifests: tuple[Manifest, ...]) -> list[tuple[str, Manifest, Manifest]]:
    return [
        (f"{name}/{container['name']}", template, container)
        for manifest in manifests
        for name, template in pod_templates(manifest)
        for container in template["spec"]["containers"]
    ]


def ours(manifests: tuple[Manifest, ...]) -> list[tuple[str, Manifest, Manifest]]:
    return [one for one in containers(manifests) if "optinfer" in one[2]["image"]]


def test_no_pod_runs_as_root_or_can_become_it(shipped: tuple[Manifest, ...]) -> None:
    """Kubernetes' standard `restricted`, which the namespace enforces."""
    assert of_kind(shipped, "Namespace")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, template, container in containers(shipped):
        pod, own = template["spec"]["securityContext"], container["securityContext"]
        assert pod["runAsNonRoot"], name
        assert pod["runAsUser"] > 0, name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not own["allowPrivilegeEscalation"], name
        assert own["capabilities"] == {"drop": ["ALL"]}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(template["spec"]), name


def test_every_container_has_requests_and_limits(shipped: tuple[Manifest, ...]) -> None:
    for name, _, container in containers(shipped):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert set(requests) == set(limits) >= RESOURCES, name
        assert requests["memory"] == limits["memory"], name
        devices = {key: value for key, value in limits.items() if "/" in key}
        assert devices == {key: value for key, value in requests.items() if "/" in key}, name


def test_ray_s_object_store_fits_shared_memory_and_that_the_pod(shipped: tuple[Manifest, ...]) -> None:
    for manifest in shipped:
        for _, group in ray_groups(manifest):
            pod = group["template"]["spec"]
            (shm,) = [one["emptyDir"] for one in pod["volumes"] if one["name"] == "shm"]
            assert shm["medium"] == "Memory"
            assert int(group["rayStartParams"]["object-store-memory"]) < gib(shm["sizeLimit"]) * 2**30
            assert gib(shm["sizeLimit"]) < gib(pod["containers"][0]["resources"]["limits"]["memory"])
            assert {"name": "shm", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]


def ray_groups(manifest: Manifest) -> list[tuple[str, Manifest]]:
    spec = manifest.get("spec", {})
    spec = spec.get("jobTemplate", spec) if manifest["kind"] == "RayCronJob" else spec
    spec = spec.get("rayClusterSpec", spec)
    if "headGroupSpec" not in spec:
        return []
    return [("head", spec["headGroupSpec"]), *((one["groupName"], one) for one in spec.get("workerGroupSpecs", []))]


def gib(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity.removesuffix("Gi"))


def test_ray_asks_for_a_token_everywhere_and_keys_come_from_secrets(shipped: tuple[Manifest, ...]) -> None:
    named = {one["metadata"]["name"]: set(one["stringData"]) for one in yaml.safe_load_all(SECRETS.read_text())}
    for name, _, container in ours(shipped):
        env = {one["name"]: one for one in container["env"]}
        assert env["RAY_AUTH_MODE"]["value"] == "token", name
        assert "RAY_AUTH_TOKEN" in env, name
        for variable in filter(SECRET.search, env):
            reference = env[variable]["valueFrom"]["secretKeyRef"]
            assert reference["key"] in named[reference["name"]], name
    for manifest in shipped:
        assert ("authOptions" in yaml.safe_dump(manifest)) == bool(ray_groups(manifest))


def test_the_example_of_secrets_holds_placeholders_and_is_included_nowhere() -> None:
    for manifest in yaml.safe_load_all(SECRETS.read_text()):
        for key, value in manifest["stringData"].items():
            assert "REPLACE" in value or "example.com" in value or key == "AWS_REGION"
    for file in KUBERAY.rglob("kustomization.yaml"):
        assert not [path for path in yaml.safe_load(file.read_text())["resources"] if path.endswith(SECRETS.name)]


def test_the_network_policy_covers_every_pod(shipped: tuple[Manifest, ...]) -> None:
    policies = of_kind(shipped, "NetworkPolicy")
    for manifest in shipped:
        for name, template in pod_templates(manifest):
            covering = [
                policy
                for policy in policies
                if policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
            ]
            assert {kind for one in covering for kind in one["spec"]["policyTypes"]} == {"Ingress", "Egress"}, name
    assert not [rule for one in policies for rule in one["spec"].get("ingress", []) if not rule.get("from")]


def test_the_head_scores_nothing_and_only_autoscaling_gives_it_rights(shipped: tuple[Manifest, ...]) -> None:
    """But the demo's, which is alone."""
    for manifest in shipped:
        for name, group in ray_groups(manifest):
            pod = group["template"]["spec"]
            if name == "head" and len(ray_groups(manifest)) > 1:
                assert group["rayStartParams"]["num-cpus"] == "0"
            scaling = "enableInTreeAutoscaling" in manifest["spec"] and name == "head"
            assert (pod.get("automountServiceAccountToken") is False) == (not scaling)


def test_every_image_is_of_an_exact_version(shipped: tuple[Manifest, ...]) -> None:
    for name, _, container in containers(shipped):
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+", container["image"]), name


def test_images_and_ray_are_of_one_version(shipped: tuple[Manifest, ...]) -> None:
    version = re.search(r'^version = "(.+)"', (REPO / "pyproject.toml").read_text(), re.M)
    ray = re.search(r"^ray==(.+)$", (REPO / "constraints.txt").read_text(), re.M)
    assert version
    assert ray
    for name, _, container in ours(shipped):
        image, _, tag = container["image"].partition(":")
        assert (tag, (KUBERAY.parent / "image" / f"Dockerfile.{image.rpartition('-')[2]}").exists()) == (
            version[1],
            True,
        ), name
    versions = re.findall(r"rayVersion: (\S+)", yaml.safe_dump_all(shipped))
    assert set(versions) == {ray[1]}


def test_the_job_that_runs_is_in_the_config_map_and_valid(shipped: tuple[Manifest, ...]) -> None:
    (jobs,) = of_kind(shipped, "ConfigMap")
    for text in jobs["data"].values():
        parse_job(yaml.safe_load(text.replace("BUCKET", "bucket")))
    for path in re.findall(r"/etc/optinfer/jobs/(\S+\.yaml)", yaml.safe_dump_all(shipped)):
        assert path in jobs["data"]
    mounted = [volume["configMap"]["name"] for _, template, _ in containers(shipped)
               for volume in template["spec"].get("volumes", []) if "configMap" in volume]  # fmt: skip
    assert set(mounted) <= {jobs["metadata"]["name"]}


def test_the_nightly_pod_waits_and_is_not_started_again_by_what_fails_again() -> None:
    cron = one_of("runs/cronjob", "CronJob")["spec"]
    job = cron["jobTemplate"]["spec"]
    (submit,) = job["template"]["spec"]["containers"]
    assert cron["concurrencyPolicy"] == "Forbid"
    assert submit["command"][:2] == ["optinfer", "submit"]
    assert "--no-wait" not in submit["command"] + submit["args"]
    assert submit["args"] == [
        "--address",
        f"http://{one_of('runs/cronjob', 'RayCluster')['metadata']['name']}-head-svc:8265",
    ]
    exit_codes = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert (exit_codes["containerName"], exit_codes["values"]) == (submit["name"], [2, 3, 4, 5])


def put(path: str, value: Any) -> Callable[[Manifest], None]:
    """Return a change of a manifest; None takes a key away."""

    def change(manifest: Manifest) -> None:
        *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        inside: Any = manifest
        for part in way:
            inside = inside[part]
        if value is None:
            del inside[last]
        else:
            inside[last] = value

    return change


CONTROLLER = [
    ("overlays/cpu", "RayCluster", [put("metadata/name", "a" * 54)], "no more than 53"),
    ("runs/rayjob", "RayJob", [put("metadata/name", "a" * 48)], "no more than 47"),
    ("runs/raycronjob", "RayCronJob", [put("metadata/name", "a" * 37)], "no more than 36"),
    ("runs/rayjob", "RayJob", [put("metadata/name", "2-nights")], "DNS1035"),
    ("runs/rayjob", "RayJob", [put("metadata/name", "embed_packages")], "DNS1035"),
    ("runs/rayjob", "RayJob", [put("spec/suspend", True), put("spec/shutdownAfterJobFinishes", False)], "not allowed to be suspended"),
    ("runs/rayjob", "RayJob", [put("spec/shutdownAfterJobFinishes", False)], "cannot have TTLSecondsAfterFinished"),
    ("runs/rayjob", "RayJob", [put("spec/rayClusterSpec", None)], "one of RayClusterSpec or ClusterSelector"),
    ("runs/rayjob", "RayJob", [put("spec/clusterSelector", {"ray.io/cluster": "optinfer"})], "BackoffLimit is incompatible with ClusterSelector"),
    ("runs/rayjob", "RayJob", [put("spec/clusterSelector", {"name": "optinfer"})], "cluster name in ClusterSelector"),
    ("runs/rayjob", "RayJob", [put("spec/clusterSelector", {"ray.io/cluster": "c"}), put("spec/suspend", True)], "doesn't support the suspend"),
    ("runs/rayjob", "RayJob", [put("spec/submissionMode", "InteractiveMode")], "BackoffLimit is incompatible with InteractiveMode"),
    ("runs/rayjob", "RayJob", [put("spec/submissionMode", "SidecarMode")], "SidecarMode doesn't support submitterPodTemplate"),
    ("runs/rayjob", "RayJob", [put("spec/submissionMode", "SidecarMode"), put("spec/rayClusterSpec/headGroupSpec/template/spec/restartPolicy", "Always")], "restartPolicy for head"),
    ("runs/rayjob", "RayJob", [put("spec/submissionMode", "SidecarMode"), put("spec/clusterSelector", {"ray.io/cluster": "c"})], "not supported in SidecarMode"),
    ("runs/rayjob", "RayJob", [put("spec/activeDeadlineSeconds", 0)], "activeDeadlineSeconds must be"),
    ("runs/rayjob", "RayJob", [put("spec/runtimeEnvYAML", "pip")], "RuntimeEnvYAML"),
    ("runs/rayjob", "RayJob", [put("spec/rayClusterSpec/authOptions/enableK8sTokenAuth", True)], "K8s token auth mode"),
    ("runs/rayjob", "RayJob", [put("spec/rayClusterSpec/upgradeStrategy", {"type": "Recreate"})], "upgradeStrategy"),
    ("runs/raycronjob", "RayCronJob", [put("spec/schedule", "CRON_TZ=UTC 0 2 * * *")], "use timeZone"),
    ("runs/raycronjob", "RayCronJob", [put("spec/schedule", "0 25 * * *")], "invalid cron schedule"),
    ("runs/raycronjob", "RayCronJob", [put("spec/timeZone", "Mars/Olympus")], "invalid time zone"),
    ("runs/raycronjob", "RayCronJob", [put("spec/jobTemplate/suspend", True), put("spec/jobTemplate/shutdownAfterJobFinishes", False)], "not allowed to be suspended"),
    ("overlays/cpu", "RayCluster", [put("spec/rayVersion", "2.51.0")], "minimum Ray version is 2.52.0"),
    ("overlays/cpu", "RayCluster", [put("spec/rayVersion", None)], "minimum Ray version is 2.52.0"),
    ("overlays/cpu", "RayCluster", [put("spec/workerGroupSpecs/0/minReplicas", None)], "must set both minReplicas"),
    ("overlays/cpu", "RayCluster", [put("spec/workerGroupSpecs/0/minReplicas", 3)], "greater than maxReplicas"),
    ("overlays/cpu", "RayCluster", [put("spec/workerGroupSpecs/0/idleTimeoutSeconds", 60)], "autoscaler v2 is not enabled"),
    ("overlays/cpu", "RayCluster", [put("spec/workerGroupSpecs/0/rayStartParams/labels", "a=b")], "rayStartParams['labels']"),
    ("overlays/cpu", "RayCluster", [put("spec/headGroupSpec/resources", {"CPU": "1"})], "both rayStartParams and Resources"),
    ("overlays/cpu", "RayCluster", [put("spec/networkPolicy", {"mode": "DenyAll"})], "feature gate"),
    ("overlays/autoscaling", "RayCluster", [put("spec/workerGroupSpecs/0/template/spec/restartPolicy", "Always")], "autoscaler V2"),
    ("overlays/autoscaling", "RayCluster", [put("spec/workerGroupSpecs/0/suspend", True)], "cannot be suspended"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "kind", "changes", "message"), CONTROLLER, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_the_controller_refuses_is_found(
    folder: str, kind: str, changes: list[Callable[[Manifest], None]], message: str
) -> None:
    manifest = one_of(folder, kind)
    for change in changes:
        change(manifest)
    assert [one for one in refused_by_controller(manifest) if message in one]


API_SERVER = [
    ("overlays/cpu", "RayCluster", put("spec/workerGroupSpecs/0/replica", 2), "'replica' was unexpected"),
    ("overlays/cpu", "RayCluster", put("spec/headGroupSpec/template/spec/containers/0/imagePullPolice", "Always"), "was unexpected"),
    ("overlays/cpu", "RayCluster", put("spec/headGroupSpec", None), "'headGroupSpec' is a required property"),
    ("overlays/cpu", "RayCluster", put("spec/workerGroupSpecs/0/minReplicas", "two"), "is not of type 'integer'"),
    ("overlays/cpu", "RayCluster", put("spec/authOptions/mode", "password"), "is not one of"),
    ("overlays/cpu", "RayCluster", put("spec/managedBy", "somebody"), "the managedBy field value must be either"),
    ("overlays/autoscaling", "RayCluster", put("spec/autoscalerOptions/version", "v3"), "is not one of"),
    ("runs/rayjob", "RayJob", put("spec/preRunningDeadlineSeconds", 0), "less than the minimum"),
    ("runs/rayjob", "RayJob", put("spec/deletionStrategy", {"onSuccess": {"policy": "DeleteSelf"}}), "requires either BOTH onSuccess and onFailure"),
    ("runs/rayjob", "RayJob", put("spec/deletionStrategy", {"onSuccess": {"policy": "DeleteSelf"}, "onFailure": {"policy": "DeleteNone"}, "deletionRules": [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED"}}]}), "cannot be used together"),
    ("runs/rayjob", "RayJob", put("spec/deletionStrategy", {"deletionRules": [{"policy": "DeleteSelf", "condition": {"ttlSeconds": 5}}]}), "requires either the JobStatus"),
    ("runs/raycronjob", "RayCronJob", put("spec/concurrencyPolicy", "Forbid"), "'concurrencyPolicy' was unexpected"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "kind", "change", "message"), API_SERVER, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_the_api_server_refuses_or_drops_is_found(
    folder: str, kind: str, change: Callable[[Manifest], None], message: str
) -> None:
    manifest = one_of(folder, kind)
    change(manifest)
    assert [one for one in refused_by_api_server(manifest) if message in one]
