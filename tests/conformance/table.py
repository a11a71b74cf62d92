"""The suite as a table: each model's answers against its library's, and the variants that pass their gate.

    python -m tests.conformance.table [--keep=FOLDER] [--variants=A,B] [PART OF A NAME...]

Measures, and where all rows were measured writes the table in docs/models.md. With `--keep` what a run has measured is
not measured again by the next, so one that was cut off goes on. With `--variants` only these are proved.

Every module of this folder that has `rows()` takes part. A row is a dict: `family`, `name`, and `write(folder)`, which
returns the model's path, a table of rows and `source.columns`; `settings` are the job's other keys of `model`, and
`prove: False` leaves the variants out where another row has the same graph. Each is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent.parent / "docs" / "models.md"
BEGIN, END = "<!-- conformance: begin (make conformance writes this) -->", "<!-- conformance: end -->"
_SECONDS = 1800
_HEAD = ["model", "held against", "largest difference", "variants that pass their gate"]


@cache
def rows() -> list[dict[str, Any]]:
    """Return every model of the suite, in the order of the modules' names."""
    found = []
    for path in sorted(HERE.glob("*.py")):
        if path.stem != "table" and not path.stem.startswith(("test_", "conftest", "__")):
            module = importlib.import_module(f"tests.conformance.{path.stem}")
            found += module.rows() if hasattr(module, "rows") else []
    return found


def measured(row: dict[str, Any], folder: Path, names: list[str] | None) -> dict[str, Any]:
    """Return who was asked, how far the answers differ, and variant -> "" where it passed, else why not."""
    import pyarrow.parquet as pq

    from optinfer.commands import resolved
    from optinfer.commands.resolved import resolve
    from optinfer.job_file import parse_job
    from optinfer.optimization.selection import Prepared, prove_all
    from optinfer.optimization.trial import HERE
    from tests.conftest import job_settings

    # One process for all variants of a row: one for each would take hours.
    resolved.APART = HERE
    path, table, columns = row["write"](folder)
    pq.write_table(table, folder / "rows.parquet")
    settings = job_settings(
        folder / "rows.parquet",
        folder / "out",
        source__columns=columns,
        model={"path": str(path), "family": row["family"], **row.get("settings", {})},
        variant="auto",
        gate={"sample_rows": table.num_rows},
        sink__columns=[],
    )
    planned = resolve(parse_job(settings))
    bench = planned.bench(lambda line: None)
    reference = bench.baseline.reference
    variants = {}
    for result in prove_all(bench, names) if row.get("prove", True) else ():
        named = result.variant.name if isinstance(result, Prepared) else result.name
        variants[named] = result.gate.reason if isinstance(result, Prepared) else result.reason
    return {
        "library": f"{reference.library} {reference.version}".strip(),
        "difference": reference.largest_difference,
        "agrees": reference.agrees,
        "note": reference.note,
        "variants": variants,
    }


def main(arguments: list[str]) -> int:
    """Measure rows, write the table where all were, and return how many models do not agree with their library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="folder of what was measured before")
    parser.add_argument("--variants", help="prove only these, with commas between them; default: all")
    parser.add_argument("names", nargs="*", help="parts of models' names; default: all models")
    given = parser.parse_args(arguments)
    chosen = [row for row in rows() if not given.names or any(part in row["name"] for part in given.names)]
    found = []
    for row in chosen:
        found.append({**row, **_apart(row, given.keep, given.variants or "")})
        said = {key: value for key, value in found[-1].items() if key not in ("write", "settings")}
        print(json.dumps(said, ensure_ascii=False), flush=True)
    if len(chosen) == len(rows()):
        write(found)
    wrong = [result["name"] for result in found if not result.get("agrees")]
    print(
        f"{len(found) - len(wrong)} agree with their library, {len(wrong)} do not{': ' * bool(wrong)}{', '.join(wrong)}"
    )
    return len(wrong)


def _apart(row: dict[str, Any], kept: Path | None, variants: str) -> dict[str, Any]:
    """Measure a row in a process of its own; where answers are kept, a row that was measured is not measured again."""
    with tempfile.TemporaryDirectory() as folder:
        name = re.sub("[^A-Za-z0-9]+", "-", f"{row['family']} {row['name']}")
        answer = Path(kept or folder, f"{name}.json")
        if not answer.is_file():
            answer.parent.mkdir(parents=True, exist_ok=True)
            environment = {**os.environ, "OPTINFER_HOME": str(Path(folder, "home"))}
            command = [
                sys.executable,
                "-m",
                "tests.conformance.table",
                "--row",
                row["family"],
                row["name"],
                folder,
                variants,
            ]
            ended = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
            if ended.returncode:
                return {"failed": ended.stderr.strip().rpartition("\n")[2][-300:], "variants": {}}
            answer.write_bytes(Path(folder, "answer").read_bytes())
        result: dict[str, Any] = json.loads(answer.read_text())
        return result


def write(results: list[dict[str, Any]]) -> None:
    """Write the table between the two marks of docs/models.md."""
    text = DOCS.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    DOCS.write_text(f"{before}{BEGIN}\n{as_markdown(results)}\n{END}{after}")


def as_markdown(results: list[dict[str, Any]]) -> str:
    """Return a table for each family."""
    parts = []
    for family in dict.fromkeys(result["family"] for result in results):
        lines = [f"| {' | '.join([family, *_HEAD[1:]])} |", f"|{'---|' * len(_HEAD)}"]
        lines += [_line(result) for result in results if result["family"] == family]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _line(result: dict[str, Any]) -> str:
    difference = result.get("difference")
    said = "nobody compared" if difference is None else f"{difference:.0e}"
    return f"| {result['name']} | {result.get('library', '')} | {said} | {_passed(result)} |"


def _passed(result: dict[str, Any]) -> str:
    """Count the variants that pass and name the others; those that are not available here are not counted."""
    here = {name: why for name, why in result["variants"].items() if not why.startswith("not available")}
    others = [name for name, why in here.items() if why]
    if not here:
        return "not measured" if result.get("prove", True) else "as the architecture's"
    return f"{len(here) - len(others)} of {len(here)}" + (f"; not {', '.join(others)}" if others else "")


def listed() -> list[tuple[str, str]]:
    """Return family and name of each line of the table in docs/models.md."""
    lines = DOCS.read_text().partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    found, family = [], ""
    for line, following in zip(lines, [*lines[1:], ""][: len(lines)], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if following.startswith("|---"):
            family = cells[0]
        elif line.startswith("| "):
            found.append((family, cells[0]))
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--row"]:
        from optinfer.system.quiet import muted

        row = next(row for row in rows() if [row["family"], row["name"]] == sys.argv[2:4])
        with muted():
            answer = measured(row, Path(sys.argv[4]), sys.argv[5].split(",") if sys.argv[5] else None)
        Path(sys.argv[4], "answer").write_text(json.dumps(answer))
    else:
        sys.exit(bool(main(sys.argv[1:])))
