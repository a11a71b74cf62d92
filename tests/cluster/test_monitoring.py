"""Rules and dashboard ask for metrics that optinfer has, and Prometheus answers as their tests say."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.manifests import CLUSTER, kustomized, program
from tests.conftest import REPO

MONITORING = CLUSTER / "monitoring"
COUNTERS = {"optinfer_rows_total", "optinfer_quarantined_rows_total", "optinfer_fragments_total"}
HISTOGRAM = "optinfer_micro_batch_seconds"
GAUGES = {"optinfer_replica_busy_share", "optinfer_model_load_seconds"}
LABELS = {"job", "variant", "device"}
# Ray puts `ray_` before a name, and keeps `_total` as it is.
EXPORTED = {
    f"ray_{name}" for name in [*COUNTERS, *GAUGES, *(f"{HISTOGRAM}_{part}" for part in ("bucket", "sum", "count"))]
}


def rules() -> list[dict[str, str]]:
    return [
        rule for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"] for rule in group["rules"]
    ]


def dashboard_queries() -> list[str]:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def promtool(*arguments: str, folder: Path = MONITORING) -> None:
    done = subprocess.run([program("promtool"), *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_rules_and_settings() -> None:
    promtool("check", "rules", "rules.yaml")
    promtool("check", "config", "prometheus.yaml")


def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    promtool("test", "rules", "rules.test.yaml")


def test_every_alert_is_tested_to_fire_and_to_be_silent() -> None:
    tested = yaml.safe_load((MONITORING / "rules.test.yaml").read_text())["tests"]
    cases = [(one["alertname"], bool(one["exp_alerts"])) for test in tested for one in test.get("alert_rule_test", [])]
    for rule in rules():
        if alert := rule.get("alert"):
            assert {(alert, True), (alert, False)} <= set(cases), alert


def test_kubernetes_gets_the_same_rules() -> None:
    assert yaml.safe_load((MONITORING / "prometheus-rule.yaml").read_text())["spec"] == yaml.safe_load(
        (MONITORING / "rules.yaml").read_text()
    )


def test_rules_and_dashboard_name_metrics_and_labels_that_there_are() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for query in [*(rule["expr"] for rule in rules()), *dashboard_queries()]:
        assert set(re.findall(r"\bray_\w+", query)) <= EXPORTED, query
        assert set(re.findall(r"\boptinfer:[\w:]+", query)) <= recorded, query
        for labels in re.findall(r"(?:by|on) \(([^)]+)\)", query):
            assert set(labels.replace(" ", "").split(",")) <= {*LABELS, "le"}, query


def test_the_names_are_those_that_replicas_count_in() -> None:
    """Whoever renames a metric finds here what it is called outside."""
    spec = importlib.util.find_spec("optinfer.execution.meter")
    if spec is None or spec.origin is None:
        pytest.skip("this version of optinfer has no metrics")
    named = set(re.findall(r'"(optinfer_\w+)"', Path(spec.origin).read_text()))
    assert named == {*COUNTERS, *GAUGES, HISTOGRAM}


def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    filled = [query.replace("$__range", "3h").replace("$job", ".*") for query in dashboard_queries()]
    recorded = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(filled)]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    promtool("check", "rules", "queries.yaml", folder=tmp_path)


def test_panels_do_not_cover_each_other_and_show_every_metric() -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        covered = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not covered & cells, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells |= covered
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    shown = " ".join(dashboard_queries()) + " ".join(rule["expr"] for rule in rules() if "record" in rule)
    assert all(name in shown for name in [*COUNTERS, *GAUGES, HISTOGRAM])


def test_pods_are_found_and_their_job_label_is_kept() -> None:
    manifests = {one["kind"]: one for one in kustomized(MONITORING)}
    assert set(manifests) == {"PodMonitor", "PrometheusRule", "ConfigMap"}
    (endpoint,) = manifests["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert endpoint["honorLabels"] is True
    selector = manifests["PodMonitor"]["spec"]["selector"]["matchLabels"]
    (cluster,) = [one for one in kustomized(CLUSTER / "kuberay" / "overlays" / "cpu") if one["kind"] == "RayCluster"]
    for group in [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]:
        assert selector.items() <= group["template"]["metadata"]["labels"].items()
        (container,) = group["template"]["spec"]["containers"]
        assert endpoint["port"] in [port["name"] for port in container["ports"]]
    assert manifests["PodMonitor"]["metadata"]["namespace"] == cluster["metadata"]["namespace"]


def test_the_dashboard_is_shipped_as_it_is() -> None:
    (shipped,) = [one for one in kustomized(MONITORING) if one["kind"] == "ConfigMap"]
    assert shipped["data"]["dashboard.json"] == (REPO / "cluster" / "monitoring" / "dashboard.json").read_text()
