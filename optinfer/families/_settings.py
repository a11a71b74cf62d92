"""A model's own files, read with one rule: a setting is applied or refused, never ignored.

Whoever reads a file names the keys it applies and those that change no answer. Any other key with a value that says
something is refused by file and key: a newer library may have begun to write it, and its answers would be others.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's settings, {} where there is no such file.

    Raises:
        ConfigError: it is not a JSON object.
    """
    content = read_any_json(path)
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} holds no settings (a JSON object) but {type(content).__name__}; save the model again"
        )
    return content


def read_any_json(path: Path) -> Any:
    """Return what a JSON file holds, {} where there is no such file."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}; save the model again") from error


def refuse_unknown(
    path: Path,
    content: Mapping[str, Any],
    applied: Collection[str],
    harmless: Collection[str] = (),
    only: Mapping[str, Collection[Any]] | None = None,
) -> None:
    """Refuse a key that says something and is neither applied nor known to change no answer.

    Args:
        only: key -> the values it may have, those that ask for nothing else than is done anyway.

    Raises:
        ConfigError: there is such a key, or one of `only` has another value.
    """
    for key, value in content.items():
        if key in applied or key in harmless or says_nothing(value):
            continue
        if only and key in only:
            if value in only[key]:
                continue
            known = ", ".join(map(repr, only[key])) or "nothing"
            raise ConfigError(f"{path} sets {key!r} to {_shown(value)}; optinfer can do {known} only")
        raise ConfigError(
            f"{path} sets {key!r} to {_shown(value)}, which optinfer does not apply: its answers would not be the "
            "model's; remove the key if it changes nothing, or use another model"
        )


def says_nothing(value: Any) -> bool:
    """Tell a value that asks for nothing: null, false, or empty."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
