"""A RayJob's manifest: valid by KubeRay's own definition where that is at hand, and complete."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from optinfer.deployment.rayjob import JOB_FOLDER, LONGEST_NAME, RayJob, kubernetes_name, manifest
from optinfer.errors import ConfigError
from tests.conftest import REPO, RunCli
from tests.deployment.conftest import write_custom_job, write_tensor_job

DEFINITION = REPO.parent / "shared" / "data" / "kuberay" / "ray.io_rayjobs.yaml.gz"


def documents(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    config, job = yaml.safe_load_all(text)
    return config, job


def made(**changes: Any) -> RayJob:
    given = {"name": "embed", "entrypoint": "python -m optinfer run", "image": "optinfer:1", "ray_version": "2.60.0"}
    return RayJob(**(given | changes))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("embed-packages", "embed-packages"),
        ("Embed_Packages.v2", "embed-packages-v2"),
        ("2026-table", "job-2026-table"),
        ("a" * 60, "a" * LONGEST_NAME),
        ("a" * 46 + "-b", "a" * 46),
    ],
)
def test_a_name_is_a_label_of_kubernetes(name: str, expected: str) -> None:
    assert kubernetes_name(name) == expected


def test_files_are_found_under_their_names() -> None:
    files = {"job.yaml": "name: a\n", "own/__init__.py": "", "own/model.py": "class A: pass\n"}
    config, job = documents(manifest(made(files=files)))
    for group in (job["spec"]["rayClusterSpec"]["headGroupSpec"], job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]):
        pod = group["template"]["spec"]
        volume = pod["volumes"][0]["configMap"]
        assert volume["name"] == config["metadata"]["name"]
        assert {item["path"]: config["data"][item["key"]] for item in volume["items"]} == files
        assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == JOB_FOLDER
    assert all("/" not in key for key in config["data"])


def test_variables_reach_driver_and_replicas() -> None:
    _, job = documents(manifest(made(env={"A": "true", "B": "1"})))
    env = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]
    assert env == {"PYTHONPATH": JOB_FOLDER, "A": "true", "B": "1"}


def test_files_that_no_config_map_holds_are_refused() -> None:
    with pytest.raises(ConfigError, match="install the code in the image"):
        manifest(made(files={"a.py": "#" * 1_000_001}))


class TestRender:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_render_prints_a_manifest_and_asks_nobody(self, here: Path, run_cli: RunCli) -> None:
        (here / "waiting.py").unlink(missing_ok=True)
        job = write_tensor_job(here)
        code, out, err = run_cli(
            "submit", job, "--render", "--image", "registry/optinfer:1", "--address", "http://nobody:1", "--set",
            "model.path=s3://bucket/model.onnx", "--set", "source.limit=3", "--env", "A=b",
        )  # fmt: skip
        assert code == 0, err
        config, rendered = documents(out)
        spec = rendered["spec"]
        assert spec["entrypoint"] == f"python -m optinfer run {JOB_FOLDER}/job.yaml --json"
        assert yaml.safe_load(next(iter(config["data"].values())))["source"]["limit"] == 3
        assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["A"] == "b"

    @pytest.mark.skipif(not DEFINITION.exists(), reason="KubeRay's definitions are not beside this checkout")
    def test_kuberay_takes_it(self, here: Path, run_cli: RunCli) -> None:
        job = write_custom_job(here)
        code, out, err = run_cli("submit", job, "--render", "--image", "a:1", "--set", "model.path=s3://b/w")
        assert code == 0, err
        definition = yaml.safe_load(gzip.decompress(DEFINITION.read_bytes()))
        versions = {version["name"]: version["schema"]["openAPIV3Schema"] for version in definition["spec"]["versions"]}
        jsonschema.validate(documents(out)[1], _closed(versions["v1"]))

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--render"], "--render needs --image"),
            (["--render", "--image", "a:1"], "a manifest carries no model"),
            (["--render", "--image", "a:1", "--retries", "1"], "tries again after any exit code"),
            (["--image", "a:1"], "add --render"),
            (["--retries", "1", "--no-wait"], "--retries has no use with"),
        ],
    )
    def test_what_has_no_use_is_refused(self, here: Path, run_cli: RunCli, arguments: list[str], said: str) -> None:
        code, out, err = run_cli("submit", write_tensor_job(here), *arguments)
        assert (code, out) == (2, "")
        assert said in err


def _closed(schema: Any) -> Any:
    """Return a schema in which a key that it does not name is an error: Kubernetes drops such keys without a word."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict) and not open_ended:
        closed["additionalProperties"] = False
    return closed
