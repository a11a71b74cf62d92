"""The table of cases in docs/submit.md is what the tests do, no more and no less."""

from __future__ import annotations

import ast

from tests.conftest import REPO
from tests.deployment.cases import CASES

WANTED = 30


def test_the_documentation_has_every_case_and_no_other() -> None:
    text = (REPO / "docs" / "submit.md").read_text()
    table = [line for line in text.partition("## Cases, as executed")[2].splitlines() if line.startswith("|")][2:]
    assert table == [case.row for case in CASES]
    assert len(CASES) >= WANTED


def test_every_case_has_a_test_and_every_test_a_case() -> None:
    tree = ast.parse((REPO / "tests" / "deployment" / "test_submit.py").read_text())
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert {f"test_{case.test}" for case in CASES} == {name for name in functions if name.startswith("test_")}
