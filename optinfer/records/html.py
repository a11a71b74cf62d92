"""Records as notebooks show them: a table of what they hold, tables within for what has parts itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from optinfer.secrets import clean

_MOST_ROWS = 50


def shown(title: str, values: Mapping[str, object]) -> str:
    """Return plain values as HTML, without what is secret."""
    return f"<strong>{escape(title)}</strong>{_table(clean(dict(values)))}"


def _table(values: Mapping[str, object]) -> str:
    rows = (
        f'<tr><th style="text-align: left">{escape(str(key))}</th><td style="text-align: left">{_cell(value)}</td></tr>'
        for key, value in values.items()
        if value is not None and value != {} and value != []
    )
    return f"<table>{''.join(rows)}</table>"


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        return f"<details><summary>{len(value)} entries</summary>{_table(value)}</details>"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _list(value)
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 100 else f"{value:,.1f}"
    return escape(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))


def _list(values: Sequence[object]) -> str:
    if all(isinstance(value, str | int | float) for value in values):
        return escape(", ".join(map(str, values[:_MOST_ROWS]))) + (", …" if len(values) > _MOST_ROWS else "")
    parts = "".join(_cell(value) for value in values[:_MOST_ROWS])
    return f"<details><summary>{len(values)} entries</summary>{parts}</details>"
