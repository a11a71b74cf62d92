"""Writes what the documentation says of keys and commands from the code that defines them: `make docs`.

Each generated part stands between two comments, `<!-- NAME -->` and `<!-- end of NAME -->`; a test compares them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from optinfer.cli import cli
from optinfer.job_file import job_schema
from optinfer.tracking.metrics import ALL

HERE = Path(__file__).resolve().parent


def keys() -> str:
    """Return a table of every key of a job file: its type, its default, and what it means."""
    schema = job_schema()
    rows = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for key, described in _keys(schema, schema, ""):
        default = "" if described.get("default") in (None, {}, []) else f"`{_plain(described['default'])}`"
        rows.append(f"| `{key}` | {_takes(schema, described)} | {default} | {described.get('description', '')} |")
    return "\n".join(rows)


def _keys(schema: dict[str, Any], part: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, described in part["properties"].items():
        section = _resolved(schema, _section(described))
        if "properties" in section:
            yield from _keys(schema, section, f"{name}.")
        else:
            yield f"{prefix}{name}", described


def _section(described: dict[str, Any]) -> dict[str, Any]:
    """Return the section where a key takes one or a boolean that is short for it."""
    kinds = described.get("anyOf", [])
    sections = [kind for kind in kinds if "$ref" in kind]
    return sections[0] if sections and {"type": "boolean"} in kinds else described


def _resolved(schema: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    reference: str = described.get("$ref", "")
    found: dict[str, Any] = schema["$defs"][reference.rpartition("/")[2]] if reference else described
    return found


def _takes(schema: dict[str, Any], described: dict[str, Any]) -> str:
    if "anyOf" in described:
        kinds = [_takes(schema, kind) for kind in described["anyOf"] if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "const" in described:
        return f"`{_plain(described['const'])}`"
    if "enum" in described:
        return " or ".join(f"`{_plain(value)}`" for value in described["enum"])
    if described.get("type") == "object":
        inner = described.get("additionalProperties")
        return f"mapping of {_takes(schema, inner)}" if isinstance(inner, dict) else "mapping"
    if described.get("type") == "array":
        return f"list of {_takes(schema, described['items'])}" if "items" in described else "list"
    if "$ref" in described:
        return "[recipe](variants.md)"
    return {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}.get(
        str(described.get("type")), "anything"
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def commands() -> str:
    """Return what `--help` says of every command."""
    context = click.Context(cli, info_name="optinfer", max_content_width=100, terminal_width=100)
    parts = [_command(cli, context)]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        parts.append(
            _command(command, click.Context(command, context, name, max_content_width=100, terminal_width=100))
        )
    return "\n\n".join(parts)


def _command(command: click.Command, context: click.Context) -> str:
    return f"## `{context.command_path}`\n\n```\n{command.get_help(context)}\n```"


def metrics() -> str:
    """Return a table of every metric that MLflow is given: what it is, and which commands' runs have it."""
    rows = ["| metric | what it is | of |", "|---|---|---|"]
    return "\n".join([*rows, *(f"| `{one.name}` | {one.about} | {one.of} |" for one in ALL)])


PARTS = {"jobs.md": {"keys": keys}, "cli.md": {"commands": commands}, "mlflow.md": {"metrics": metrics}}


def generated(text: str, name: str, content: str) -> str:
    """Return a document with the content of one part replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def documents() -> Iterator[tuple[Path, str]]:
    """Yield each document as it should be."""
    for file, parts in PARTS.items():
        path = HERE / file
        text = path.read_text()
        for name, content in parts.items():
            text = generated(text, name, content())
        yield path, text


if __name__ == "__main__":
    for path, text in documents():
        if path.read_text() != text:
            path.write_text(text)
            print(f"{path.name}: written", file=sys.stderr)
