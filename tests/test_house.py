"""The rooms and the arrows between them, over the graph of all imports, type-only ones included."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent / "optinfer"
MOST_ROOT_MODULES, MOST_IMPORTS, MOST_PARAMETERS, LARGEST_ROOM = 8, 14, 7, 0.2
MOST_UNTYPED = 5  # `dict[str, Any]` in 1,000 lines
MOST_REPLACED = 16  # lines of tests that put something else in the place of what the product calls; hand it in instead


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("optinfer", exclude_type_checking_imports=False, cache_dir=None)


def sources() -> Iterator[tuple[str, str]]:
    for file in sorted(ROOT.rglob("*.py")):
        yield file.relative_to(ROOT).as_posix(), file.read_text()


def test_no_modules_import_each_other_in_a_circle(graph: grimp.ImportGraph) -> None:
    circles = []
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            if back := graph.find_shortest_chain(imported, module):
                circles.append(" -> ".join([module, *back]))
    assert not circles


def test_rooms_are_entered_in_one_direction(graph: grimp.ImportGraph) -> None:
    def room(module: str) -> str:
        return module.split(".")[1] if "." in module else ""

    arrows = {
        (room(module), room(imported))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if room(module) and room(imported) and room(module) != room(imported)
    }
    assert not {(one, other) for one, other in arrows if (other, one) in arrows}


def test_the_root_holds_few_modules() -> None:
    assert len(list(ROOT.glob("*.py"))) <= MOST_ROOT_MODULES


def test_no_module_imports_many_of_ours(graph: grimp.ImportGraph) -> None:
    counts = {m: len(graph.find_modules_directly_imported_by(m)) for m in graph.modules}
    assert not {module: count for module, count in counts.items() if count > MOST_IMPORTS}


def test_no_room_is_above_a_fifth_of_the_house() -> None:
    lines: Counter[str] = Counter()
    for name, text in sources():
        lines[name.split("/")[0]] += text.count("\n")
    total = lines.total()
    assert not {room: share for room, n in lines.items() if (share := round(n / total, 3)) > LARGEST_ROOM}


def test_no_function_takes_many_parameters() -> None:
    def count(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        given = node.args
        named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        own = bool(named) and named[0].arg in ("self", "cls")
        return len(named) - own + bool(given.vararg) + bool(given.kwarg)

    many = {
        f"{name}:{node.name}": count(node)
        for name, text in sources()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and count(node) > MOST_PARAMETERS
    }
    assert not many


def test_few_values_are_untyped_records() -> None:
    texts = [text for _, text in sources()]
    untyped = sum(text.count("dict[str, Any]") for text in texts)
    assert 1000 * untyped / sum(text.count("\n") for text in texts) <= MOST_UNTYPED


def test_few_tests_replace_what_the_product_calls() -> None:
    """What a test needs otherwise it hands in, or causes for real."""
    word = "set" + "attr"
    lines = [
        f"{file.relative_to(TESTS)}: {line.strip()}"
        for file in sorted(TESTS.rglob("*.py"))
        for line in file.read_text().splitlines()
        if word in line
    ]
    assert len(lines) <= MOST_REPLACED, lines


# `torch` is a format, too.
@pytest.mark.parametrize("file", sorted((ROOT / "backends").glob("[!_]*_*.py")), ids=lambda file: file.stem)
def test_a_plugin_is_named_in_its_own_file_only(file: Path) -> None:
    """Adding a backend edits no list: nobody else compares a backend's name with a literal."""
    plugin = file.stem.replace("_", "-")
    literals = [f'== "{plugin}"', f'in ("{plugin}"']
    named = [
        name for name, text in sources() if any(one in text for one in literals) and name != f"backends/{file.name}"
    ]
    assert not named
