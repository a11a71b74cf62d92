"""Run by a Python that has Airflow, with the path of a DAG: imports it as Airflow does, and runs its task."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowFailException
from airflow.serialization.serialized_objects import DagSerialization

bag = DagBag(dag_folder=sys.argv[1], collect_dags=False)
bag.process_file(sys.argv[1])
assert not bag.import_errors, bag.import_errors
(dag,) = bag.dags.values()
assert (dag.dag_id, dag.max_active_runs, dag.catchup) == ("optinfer-embed", 1, False)
print(DagSerialization.to_dict(dag)["dag"]["timetable"])

# 23:30 UTC is the next day in Paris. The bucket does not exist here: what matters is which night was asked for.
run = SimpleNamespace(logical_date=datetime(2026, 11, 25, 23, 30, tzinfo=UTC), run_after=None)
score = dag.get_task("score").python_callable
score.__globals__["COMMAND"] = [
    sys.executable,
    "-c",
    "import sys; print(sys.argv[1:]); sys.exit(int(sys.argv[2] == '2026-11-26') * 4)",
]
said = ""
with contextlib.suppress(AirflowFailException):
    score(dag_run=run)
    said = "the night of the logical date in Paris was not asked for"
assert not said, said
score(dag_run=SimpleNamespace(logical_date=None, run_after=datetime(2026, 11, 24, 12, tzinfo=UTC)))
print("ok")
