"""What the documentation says of keys and commands is what the code says."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import REPO

GENERATE = runpy.run_path(str(REPO / "docs" / "generate.py"))


@pytest.mark.parametrize(("path", "text"), list(GENERATE["documents"]()), ids=lambda value: getattr(value, "name", ""))
def test_a_document_is_as_it_is_generated(path: Path, text: str) -> None:
    assert path.read_text() == text, "run `make docs`"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    from optinfer.job_file import job_schema

    return job_schema()


def test_every_key_says_what_it_means(schema: dict[str, Any]) -> None:
    parts = [schema, *schema["$defs"].values()]
    silent = [
        name
        for part in parts
        for name, described in part.get("properties", {}).items()
        if not described.get("description") and "$ref" not in described
    ]
    assert not silent


@pytest.mark.parametrize("job", sorted((REPO / "jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_schema_takes_the_shipped_jobs_and_no_unknown_key(
    schema: dict[str, Any], job: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    raw = yaml.safe_load(job.read_text())
    assert not list(validator.iter_errors(raw))
    raw["model"]["max_lenght"] = 3
    assert [error.validator for error in validator.iter_errors(raw)] == ["additionalProperties"]
    code, out, _ = run_cli("schema")
    assert (code, json.loads(out)) == (0, schema)
