"""Every variant of the suite's models on their own rows: it passes its gate, or says why it does not.

    python -m tests.conformance.matrix [PART OF A NAME...]

Takes minutes. The last line is one JSON object: model -> variant -> "" where it passed, else the reason.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import optinfer
from optinfer.config import parse_job
from optinfer.errors import OptinferError
from optinfer.quiet import muted
from tests.conformance import converters, images
from tests.conftest import job_settings


def verdicts(row: dict[str, Any], folder: Path) -> dict[str, str]:
    """Return variant -> "" where it passed its gate, else why not."""
    with muted():
        path, table, columns = row["write"](folder)
        pq.write_table(table, folder / "rows.parquet")
        settings = job_settings(
            folder / "rows.parquet",
            folder / "out",
            source__columns=columns,
            model={"path": str(path), "family": row["family"]},
            gate={"min": 0.95, "sample_rows": table.num_rows},
            sink__columns=[],
        )
        record = optinfer.optimize(parse_job(settings))
    return {c["variant"]: c["reason"] for c in record["candidates"]} | record["skipped"]


def main(parts: list[str]) -> None:
    found = {}
    for row in [*converters.rows(), *images.rows()]:
        if parts and not any(part in row["name"] for part in parts):
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.environ["OPTINFER_HOME"] = str(Path(folder, "home"))
            try:
                found[row["name"]] = verdicts(row, Path(folder))
            except OptinferError as error:
                found[row["name"]] = {"job": str(error)}
        said = {name: reason or "passed" for name, reason in found[row["name"]].items()}
        print(row["name"], json.dumps(said, indent=1, ensure_ascii=False), file=sys.stderr, flush=True)
    print(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1:])
