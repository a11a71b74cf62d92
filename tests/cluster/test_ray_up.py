"""The files of `ray up` are valid to Ray itself, ask for a token, and hold no secret."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.manifests import CLUSTER, Manifest

FILES = sorted((CLUSTER / "ray-up").glob("*.yaml"))
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
PLACEHOLDERS = {"aws.yaml": {"ami-REPLACE"}, "gcp.yaml": {"REPLACE-WITH-YOUR-PROJECT"}, "local.yaml": set()}


@pytest.fixture(params=FILES, ids=lambda file: file.name)
def file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def config(file: Path) -> Manifest:
    read: Manifest = yaml.safe_load(file.read_text())
    return read


def test_ray_s_schema_accepts_it(config: Manifest) -> None:
    jsonschema.validate(config, SCHEMA)


def test_it_is_valid_with_the_defaults_of_its_provider(config: Manifest) -> None:
    """What `ray up` does with the file before it asks a cloud for anything."""
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert prepared["max_workers"] == config["max_workers"]


def test_a_misspelt_key_is_refused(config: Manifest) -> None:
    with pytest.raises(jsonschema.ValidationError, match="setup_command"):
        jsonschema.validate({**config, "setup_command": []}, SCHEMA)


def test_the_optional_image_is_valid_where_it_is_wanted(file: Path) -> None:
    text = re.sub(r"^# (docker:|  (?:image|container_name|run_options):)", r"\1", file.read_text(), flags=re.M)
    with_image = yaml.safe_load(text)
    assert set(with_image["docker"]) == {"image", "container_name", "run_options"}
    jsonschema.validate(with_image, SCHEMA)


def test_ray_starts_with_a_token_on_every_node_and_its_api_listens_to_the_head_alone(config: Manifest) -> None:
    starts = [command for key in ("head_start_ray_commands", "worker_start_ray_commands") for command in config[key]]
    started = [command for command in starts if "ray start" in command]
    assert len(started) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in started)
    assert "--dashboard-host=127.0.0.1" in started[0]
    assert "--num-cpus=0" in started[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]


def test_what_is_installed_is_pinned(config: Manifest) -> None:
    commands = [*config["setup_commands"], *config.get("head_setup_commands", [])]
    installing = [command for command in commands if "pip install" in command]
    assert installing
    assert all("-c constraints.txt" in command for command in installing)


def test_the_head_scores_nothing_and_workers_are_spot(config: Manifest) -> None:
    kinds = config.get("available_node_types")
    if kinds is None:  # machines of one's own
        assert config["max_workers"] == len(config["provider"]["worker_ips"])
        return
    assert kinds[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert sum(kind.get("max_workers", 0) for kind in kinds.values()) == config["max_workers"]
    for name, kind in kinds.items():
        spot = re.search(r"spot|preemptible: true", yaml.safe_dump(kind["node_config"]), re.I)
        assert bool(spot) == (name != config["head_node_type"]), name
    assert {"GPU"} <= {resource for kind in kinds.values() for resource in kind["resources"]}


def test_it_holds_placeholders_and_no_secret(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"AKIA|aws_secret|BEGIN .*PRIVATE|credentials:", text)
    for placeholder in PLACEHOLDERS[file.name]:
        assert placeholder in text
