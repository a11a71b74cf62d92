"""What a forecast remembers of a run: it is no part of the run, which is done by then."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from optinfer.config import PlacementConfig
from optinfer.forecast.runs import Outlook


def test_a_start_up_time_that_cannot_be_kept_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path))
    (tmp_path / "startup" / "model-fake.json").mkdir(parents=True)  # where its file is to be
    pools: Any = SimpleNamespace(
        first=SimpleNamespace(variant=SimpleNamespace(name="fake"), certificate=SimpleNamespace(load_seconds=0.5))
    )
    Outlook(PlacementConfig(), "model", pools, ()).keep_startup(1.0)
    assert (tmp_path / "startup" / "model-fake.json").is_dir()
