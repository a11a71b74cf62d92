"""What cluster/README.md names is there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.cluster.manifests import CLUSTER, KUBERAY, OVERLAYS, RUNS, kustomized
from tests.conftest import REPO

TEXT = (CLUSTER / "README.md").read_text()


def test_every_link_and_path_leads_somewhere() -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("http")]
    assert not [link for link in links if link and not (CLUSTER / link).exists()]
    paths = re.findall(r"(?:-k|-f|ray \w+) ((?:cluster|jobs)/[\w./-]+)", TEXT)
    assert len(paths) > 8
    assert not [path for path in paths if not (REPO / path).exists()]


def test_every_folder_and_file_is_explained() -> None:
    for name in [*OVERLAYS, *RUNS, *(file.name for file in (CLUSTER / "ray-up").iterdir())]:
        assert name in TEXT
    for folder in (CLUSTER / "image", CLUSTER / "monitoring"):
        for file in folder.glob("Dockerfile.*"):
            assert file.name in TEXT
    alerts = [rule["alert"] for group in yaml.safe_load((CLUSTER / "monitoring" / "rules.yaml").read_text())["groups"]
              for rule in group["rules"] if "alert" in rule]  # fmt: skip
    assert [alert for alert in alerts if f"`{alert}`" in TEXT] == alerts


def test_secrets_and_images_are_made_under_the_names_that_are_used() -> None:
    created = set(re.findall(r"create secret generic (\S+)", TEXT))
    keys = set(re.findall(r"--from-literal=(\w+)=", TEXT))
    shipped = {one["metadata"]["name"]: set(one["stringData"]) for one in
               yaml.safe_load_all((KUBERAY / "secrets.example.yaml").read_text())}  # fmt: skip
    assert created == set(shipped)
    assert keys == set().union(*shipped.values())
    (built,) = set(re.findall(r"-t (\S+) \.\n", TEXT))
    assert built in yaml.safe_dump_all(kustomized(Path(KUBERAY / "demo")))
