"""A job's replica against `mlflow.pyfunc` on a table's models: rows per second, and rows per second of CPU.

Each model is trained here on a table that scikit-learn ships, logged as MLflow's flavor of its library, and scores that
table's rows over and over until there are `--rows`. One thread each; a replica is given Arrow, as it reads it, and gives
Arrow, as it commits it; `mlflow.pyfunc` is given data frames of 1,000 rows, as `spark_udf` gives it by batches. Both
are warm, in one process, one after the other in `--repeats` rounds, of which the best counts. No Ray, no files.

The LAST line of stdout is ONE JSON object: {model: {"rows", "columns", "mlflow", "pyfunc", "onnx-tabular"}}, of which
the last three are {"rows_per_second", "rows_per_cpu_second"}; the last is null with its "reason" where there is none.

Usage: python tests/benchmarks/table_models.py [--rows 50000] [--repeats 3] [--models NAME ...]
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MLFLOW_ALLOW_PICKLE_DESERIALIZATION="true")

import argparse
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.config import ModelConfig
from optinfer.errors import OptinferError
from optinfer.families import FAMILIES
from optinfer.inference.preparing import prepare
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.models.source import locate
from optinfer.optimization import build
from optinfer.optimization.techniques import BuildContext
from optinfer.optimization.variants import VARIANTS

_BATCH = 1000
_SETTINGS = {"trusted_types": ("sklearn.tree._tree.Tree", "numpy.dtype")}
Timed = dict[str, float]


def logistic(rows: Any, target: Any) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, target)


def forest(rows: Any, target: Any) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(100, random_state=0).fit(rows, target)


def xgboost(rows: Any, target: Any) -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=100, n_jobs=1).fit(rows, target)


def lightgbm(rows: Any, target: Any) -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=100, n_jobs=1, verbose=-1).fit(rows, target)


# name -> MLflow's flavor, what trains it
MODELS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "sklearn StandardScaler, LogisticRegression": ("sklearn", logistic),
    "sklearn RandomForestClassifier, 100 trees": ("sklearn", forest),
    "xgboost XGBClassifier, 100 trees": ("xgboost", xgboost),
    "lightgbm LGBMClassifier, 100 trees": ("lightgbm", lightgbm),
}


def best(work: Callable[[], object], rows: int, repeats: int) -> Timed:
    """Return the best of several rounds."""
    seconds, cpu = [], []
    for _ in range(repeats):
        started, used = perf_counter(), process_time()
        work()
        seconds.append(perf_counter() - started)
        cpu.append(process_time() - used)
    return {"rows_per_second": round(rows / min(seconds)), "rows_per_cpu_second": round(rows / min(cpu))}


def measured(flavor: str, train: Callable[[Any, Any], Any], rows: int, repeats: int, folder: Path) -> dict[str, Any]:
    import mlflow
    from sklearn.datasets import load_breast_cancer

    data, target = load_breast_cancer(return_X_y=True, as_frame=True)
    model = train(data, target)
    more = {"skops_trusted_types": ["sklearn.tree._tree.Tree"]} if flavor == "sklearn" else {}
    logged = getattr(mlflow, flavor)
    signature = mlflow.models.infer_signature(data, target)
    logged.save_model(model, str(folder), signature=signature, pip_requirements=[], **more)
    frame = data.iloc[np.arange(rows) % len(data)].reset_index(drop=True)
    batches = [frame.iloc[i : i + _BATCH] for i in range(0, rows, _BATCH)]
    function = mlflow.pyfunc.load_model(str(folder))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    found: dict[str, Any] = {"rows": rows, "columns": table.num_columns}
    found["mlflow"] = best(lambda: [function.predict(batch) for batch in batches], rows, repeats)
    located = locate(ModelConfig(path=str(folder), family="tabular", **_SETTINGS))
    family = FAMILIES.get("tabular").load(located, _SETTINGS)
    context = BuildContext(family, prepare(family, table.slice(0, 256)).features)
    for name in ("pyfunc", "onnx-tabular"):
        try:
            artifact = build.build(VARIANTS[name], located, "bench", lambda: context)
        except OptinferError as error:
            found |= {name: None, "reason": str(error)}
            continue
        replica = Replica(
            ReplicaSettings(
                family="tabular",
                family_settings=_SETTINGS,
                model=located,
                backend=VARIANTS[name].backend,
                artifact=artifact,
                threads=1,
            )
        )
        replica.score(table.slice(0, _BATCH))
        found[name] = best(lambda replica=replica: replica.score(table), rows, repeats)  # type: ignore[misc]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    results = {}
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            os.environ.setdefault("OPTINFER_HOME", folder)
            results[name] = measured(*MODELS[name], given.rows, given.repeats, Path(folder, "model"))
        print(name, results[name], file=sys.stderr, flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
