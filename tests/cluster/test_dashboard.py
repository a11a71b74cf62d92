"""Every query of the dashboard, answered by a real Prometheus that scrapes a real run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from tests.cluster.manifests import program
from tests.cluster.scraped import FRAGMENT_ROWS, NULLS, ROWS, panels
from tests.conftest import REPO

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    program("prometheus")  # skips where there is none
    command = [sys.executable, "-m", "tests.cluster.scraped", str(tmp_path_factory.mktemp("scraped"))]
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_prometheus_counts_what_the_run_counts(seen: dict[str, Any]) -> None:
    record = seen["record"]
    assert (record["rows_out"], record["rows_quarantined"]) == (ROWS - NULLS, NULLS)
    assert seen["totals"] == {
        "rows": record["rows_out"],
        "quarantined_rows": record["rows_quarantined"],
        "fragments": ROWS / FRAGMENT_ROWS,
    }


def test_every_query_has_an_answer_and_it_is_a_number(seen: dict[str, Any]) -> None:
    assert seen["panels"].keys() == panels().keys()
    for title, answers in seen["panels"].items():
        for samples in answers:
            assert samples, title
            assert all(math.isfinite(float(sample["value"][1])) for sample in samples), title


def test_series_are_told_apart_by_our_labels(seen: dict[str, Any]) -> None:
    (speed,) = seen["panels"]["Rows per second"]
    (sample,) = speed
    assert sample["metric"].items() >= {"job": "test", "variant": "faulty", "device": "cpu"}.items()
    assert float(sample["value"][1]) > 0


def test_replicas_and_shares_are_what_the_run_had(seen: dict[str, Any]) -> None:
    ((replicas,),) = seen["panels"]["Replicas"]
    assert 1 <= float(replicas["value"][1]) <= seen["record"]["placement"]["replicas"]
    for samples in seen["panels"]["Busy share of the model"]:
        assert all(0 <= float(sample["value"][1]) <= 1 for sample in samples)
    ((share,),) = seen["panels"]["Quarantined share"]
    assert 0 <= float(share["value"][1]) <= 1
