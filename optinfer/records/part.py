"""What is known of a committed part: what its footer says, and what lies in the folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Part:
    """One fragment's rows in an output.

    Attributes:
        artifact, variant: what scored them; None in parts of before this was recorded.
        rows_in_place: those of `rows_quarantined` that are in the part all the same, without an answer.
        sketch: what is watched of its rows (monitoring/sketch.py); None where nothing is.
        quarantine_file: name of the file with the rows that could not be scored, and its bytes; None without one.
        bytes, sha256: of the part as it was put; None where nobody read all of it.
        stamp: changes when the part is written again; 0 or None where it is not known.
    """

    fragment: int
    fingerprint: str = ""
    artifact: str | None = None
    variant: str | None = None
    rows_in: int = 0
    rows_out: int = 0
    rows_quarantined: int = 0
    rows_in_place: int = 0
    sketch: str | None = None
    quarantine_file: str | None = None
    quarantine_bytes: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    stamp: int | None = None

    @property
    def rows(self) -> int:
        """How many rows its file has."""
        return self.rows_out + self.rows_in_place

    @property
    def footer(self) -> dict[str, Any]:
        """What its file says of itself: all but what is known only when the file is there."""
        said = {name: getattr(self, name) for name in _IN_FOOTERS}
        return {name: value for name, value in said.items() if name != "sketch" or value is not None}

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Part:
        """Return the part that a footer describes.

        Raises:
            KeyError: it says not which fragment of which job it holds.
        """
        needed = {name: raw[name] for name in ("fragment", "fingerprint", "rows_in", "rows_out")}
        return cls(**{**{name: raw[name] for name in _IN_FOOTERS if name in raw}, **needed})


_IN_FOOTERS = [f.name for f in fields(Part) if f.name not in ("bytes", "sha256", "stamp")]
