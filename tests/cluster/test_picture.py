"""The dashboard's picture in docs/: every panel is in it, and nothing that is no number."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.cluster.scraped import Prometheus, panels

pytest.importorskip("matplotlib")


class Answering(Prometheus):
    """One that has the same answer to every query: a number between a division by zero and one that is infinite."""

    def ask_range(self, query: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        values = [[start + at, value] for at, value in enumerate(("NaN", "3", "+Inf", "4"))]
        return [{"metric": {"job": "j", "variant": "v", "device": "cpu"}, "values": values}]


class Silent(Prometheus):
    """One that has no answer."""

    def ask_range(self, query: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        return []


@pytest.mark.parametrize("asked", [Answering(0), Silent(0)])
def test_every_panel_is_drawn_and_only_numbers_are(asked: Prometheus) -> None:
    from tests.cluster.picture import picture

    drawn = picture(asked, 0.0, 10.0).axes
    assert {axes.get_title(loc="left") for axes in drawn} == panels().keys()
    points = [value for axes in drawn for line in axes.lines for value in line.get_ydata()]
    assert all(math.isfinite(value) for value in points)
    assert bool(points) == isinstance(asked, Answering)
