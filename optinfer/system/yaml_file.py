"""Reads YAML that a person wrote: whatever is wrong with it is said with its place, and nothing is guessed.

Plain YAML takes the last of two equal keys without a word, and a few lines of it can fill the memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from optinfer.errors import ConfigError, scrubbed

# A job is written by hand: what is larger, deeper or has more in it, aliases written out, is another file.
_LARGEST, _MOST_VALUES, _DEEPEST = 1_000_000, 50_000, 50
_SHOWN, _MOST_LINES = 80, 6
# Beside YAML's own errors: a number with more digits, or more nesting, than Python takes.
_REFUSED = (yaml.YAMLError, ValueError, RecursionError)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, and more than a person writes.

    Args:
        name: of the text, in errors.
    """

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name
        self._values = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        mark = self.peek_event().start_mark
        self._values += 1
        self._depth += 1
        _require(self._values <= _MOST_VALUES, _TOO_MANY, mark)
        _require(self._depth <= _DEEPEST, "it is nested too deeply", mark)
        node: yaml.Node | None = super().compose_node(parent, index)  # type: ignore[arg-type]
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                _require(key.value not in seen, f"the key {_short(key.value)} is there twice; keep one", key.start_mark)
                seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


_TOO_MANY = f"it holds more than {_MOST_VALUES:,} values, aliases written out"


def read(path: Path, kind: str = "job file") -> tuple[Any, Any]:
    """Return the YAML nodes of a file of some kind, which know their lines, and its value.

    Raises:
        ConfigError: it cannot be read, or is no YAML.
    """
    return _loaded(_text(path, kind), str(path), str(path))


def value(text: str, what: str) -> Any:
    """Return the value of a YAML text; `what` names it where it is none."""
    return _loaded(text, what, "the value")[1]


def _loaded(text: str, what: str, name: str) -> tuple[Any, Any]:
    try:
        loader = _Loader(text, name)
        node = loader.get_single_node()
        if node is None:
            return None, None
        _require_written_out(node)
        return node, loader.construct_document(node)
    except _REFUSED as error:
        raise ConfigError(f"{what} is not valid YAML: {_said(error)}") from error


def _require_written_out(top: yaml.Node) -> None:
    """Refuse aliases that stand for more than anybody writes, or for themselves: a few lines of them fill a memory."""
    sizes: dict[int, int] = {}  # 0 where it is being counted

    def size(node: yaml.Node, depth: int) -> int:
        known = sizes.get(id(node))
        _require(known != 0, "an alias stands for a value that holds it", node.start_mark)
        _require(depth <= _DEEPEST, "it is nested too deeply", node.start_mark)
        if known is None:
            sizes[id(node)] = 0
            known = sizes[id(node)] = 1 + sum(size(inner, depth + 1) for inner in _inside(node))
            _require(known <= _MOST_VALUES, _TOO_MANY, node.start_mark)
        return known

    size(top, 1)


def _inside(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [inner for pair in node.value for inner in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _require(is_so: bool, problem: str, mark: yaml.Mark | None) -> None:
    if not is_so:
        raise yaml.composer.ComposerError(problem=problem, problem_mark=mark)


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _said(error: Exception) -> str:
    """Say what is wrong and where; YAML's own errors quote a line, which may be a megabyte."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    lines = scrubbed(str(error)).splitlines()[:_MOST_LINES]
    return "\n".join(line if len(line) <= 2 * _SHOWN else f"{line[: 2 * _SHOWN]}..." for line in lines)


def _text(path: Path, kind: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the {kind} {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); is it a {kind}?"
        ) from error
    except ValueError as error:  # a NUL in the path
        raise ConfigError(f"cannot read the {kind} {str(path)!r}: {error}; check the path") from error
    if len(text) > _LARGEST:
        raise ConfigError(f"{path} has more than {_LARGEST:,} characters; is it a {kind}?")
    return text
