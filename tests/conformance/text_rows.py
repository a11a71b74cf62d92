"""The text models as the table lists them (table.py)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.conformance.text_cases import CASES, built
from tests.conformance.text_models import Case
from tests.conformance.texts import texts


def rows() -> list[dict[str, Any]]:
    """Return family, name, and what writes a model and its rows; variants are built of each architecture and head."""
    return [
        {
            "family": case.family,
            "name": f"{case.architecture}, {case.name}",
            "write": partial(_written, case),
            "settings": case.settings,
            "prove": case.changes_graph,
        }
        for case in CASES
    ]


def _written(case: Case, folder: Path) -> tuple[Path, pa.Table, dict[str, Any]]:
    return built(case, folder / "model"), pa.table({"text": texts()}), {"text": "text"}
