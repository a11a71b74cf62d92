"""Reads YAML that a person wrote: whatever is wrong with it is said with its place, and nothing is guessed.

Plain YAML takes the last of two equal keys without a word, and a few lines of it can fill the memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from optinfer.errors import ConfigError

# A job is written by hand: what is larger is another file.
_LARGEST = 1_000_000
# Beside YAML's own errors: a number with more digits, or more nesting, than Python takes.
_REFUSED = (yaml.YAMLError, ValueError, RecursionError)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key.value!r} is there twice; keep one", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def read(path: Path) -> tuple[Any, Any]:
    """Return a file's YAML nodes, which know their lines, and its value.

    Raises:
        ConfigError: it cannot be read, or is no YAML.
    """
    text = _text(path)
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader), yaml.load(text, Loader=_Loader)
    except _REFUSED as error:
        raise ConfigError(f"{path} is not valid YAML: {_said(error)}") from error


def value(text: str, what: str) -> Any:
    """Return the value of a YAML text; `what` names it where it is none."""
    try:
        return yaml.load(text, Loader=_Loader)
    except _REFUSED as error:
        raise ConfigError(f"{what} is not valid YAML: {_said(error)}") from error


def _said(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _text(path: Path) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the job file {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); is it a job file?"
        ) from error
    except ValueError as error:  # a NUL in the path
        raise ConfigError(f"cannot read the job file {str(path)!r}: {error}; check the path") from error
    if len(text) > _LARGEST:
        raise ConfigError(f"{path} has more than {_LARGEST:,} characters; is it a job file?")
    return text
