"""What runs took, as it is kept in the home for later forecasts: the last of each model and variant, and of all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from optinfer.data import home_store
from optinfer.forecast.parts import Past
from optinfer.records.observation import Observation
from optinfer.records.record import decoded_leniently
from optinfer.system import home

# So many runs say what is usual, and a machine that has changed is soon known as it is now.
MOST = 20


def past(model: str, variant: str, machine: str) -> Past:
    """Return what is known of earlier runs; what is damaged counts as none."""
    own, others = _read(_own(model, variant)), _read(_others(machine))
    return Past(
        own,
        others,
        None if own else home_store.read_newest(_startup(f"{model}-{variant}"), _seconds),
        None if others else home_store.read_newest(_startup("without-loading"), _seconds),
    )


def keep(run: Observation) -> None:
    """Remember a run; of two that end at the same moment, one may be forgotten.

    Raises:
        OptinferError: the home cannot be written to.
    """
    for path in (_own(run.model, run.variant), _others(run.machine)):
        runs = [*_read(path), run][-MOST:]
        home_store.replace(path, json.dumps({"runs": [one.as_dict() for one in runs]}).encode())


def _own(model: str, variant: str) -> Path:
    return home.home() / "observed" / f"{model}-{variant}.json"


def _others(machine: str) -> Path:
    kind = hashlib.sha256(machine.encode()).hexdigest()[:16]
    return home.home() / "observed" / f"machine-{kind}.json"


def _read(path: Path) -> tuple[Observation, ...]:
    return home_store.read_newest(path, partial(home.read_json, make=_observations)) or ()


def _observations(raw: Mapping[str, Any]) -> tuple[Observation, ...]:
    found = (decoded_leniently(Observation, one) for one in raw["runs"])
    return tuple(run for run in found if run.is_sound)


def _startup(name: str) -> Path:
    """Return where earlier versions kept the last run's start-up."""
    return home.home() / "startup" / f"{name}.json"


def _seconds(file: Path) -> float | None:
    return home.read_json(file, lambda raw: float(raw["seconds"]))
