"""A replica's metrics, as Prometheus reads them of a real Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import REPO, free_ports
from tests.execution.metered import FRAGMENT_ROWS, NULLS, ROWS, total


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder, (port,) = tmp_path_factory.mktemp("metered"), free_ports(1)
    command = [sys.executable, "-m", "tests.execution.metered", str(folder), str(port)]
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
class TestOnRay:
    def test_counters_are_the_receipts_totals(self, seen: dict[str, Any]) -> None:
        receipts, text = seen["receipts"], seen["text"]
        assert (receipts["rows_in"], receipts["rows_quarantined"]) == (ROWS, NULLS)
        assert total(text, "ray_optinfer_rows_total") == receipts["rows_out"] == seen["record"]["rows_out"]
        assert total(text, "ray_optinfer_quarantined_rows_total") == receipts["rows_quarantined"]
        assert total(text, "ray_optinfer_fragments_total") == ROWS / FRAGMENT_ROWS

    def test_the_histogram_counts_every_micro_batch(self, seen: dict[str, Any]) -> None:
        assert total(seen["text"], "ray_optinfer_micro_batch_seconds_count") == seen["receipts"]["micro_batches"]

    def test_gauges_say_how_busy_a_replica_was_and_how_long_it_took_to_load(self, seen: dict[str, Any]) -> None:
        by_name = {
            name: [
                sample.value
                for family in text_string_to_metric_families(seen["text"])
                for sample in family.samples
                if sample.name == name
            ]
            for name in ("ray_optinfer_replica_busy_share", "ray_optinfer_model_load_seconds")
        }
        replicas = len([node for node in by_name["ray_optinfer_replica_busy_share"] if 0 < node <= 1])
        assert 1 <= replicas <= seen["record"]["placement"]["replicas"]
        assert len([seconds for seconds in by_name["ray_optinfer_model_load_seconds"] if seconds > 0]) == replicas

    def test_our_labels_are_job_variant_and_device_only(self, seen: dict[str, Any]) -> None:
        families = [
            family for family in text_string_to_metric_families(seen["text"]) if family.name.startswith("ray_optinfer_")
        ]
        assert len(families) == 6
        rays = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "le"}
        for sample in (sample for family in families for sample in family.samples):
            ours = {name: value for name, value in sample.labels.items() if name not in rays and "otel" not in name}
            assert ours == {"job": "test", "variant": "fake", "device": "cpu"}
