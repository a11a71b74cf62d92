"""Run by a Python that has Dagster, with the path of definitions: asks the schedule for a night, and runs it."""

from __future__ import annotations

import runpy
import sys
from datetime import UTC, datetime

import dagster as dg

found = runpy.run_path(sys.argv[1])
found["defs"].get_repository_def()  # what `dagster definitions validate` does

# 23:30 UTC is the next day in Paris.
tick = dg.build_schedule_context(scheduled_execution_time=datetime(2026, 11, 24, 23, 30, tzinfo=UTC))
asked = found["every_night"].evaluate_tick(tick).run_requests
assert [request.run_key for request in asked] == ["2026-11-25"]

job = found["defs"].resolve_job_def("optinfer_embed_job")
with dg.DagsterInstance.ephemeral() as instance:
    done = job.execute_in_process(run_config=asked[0].run_config, instance=instance)
    (materialized,) = done.asset_materializations_for_node("optinfer_embed")
    print({key: value.value for key, value in materialized.metadata.items()})
    assert materialized.metadata["rows_out"].value == 0
    assert materialized.metadata["status"].value == "done"

    past = {"ops": {"optinfer_embed": {"config": {"logical_date": "2026-11-10"}}}}
    failed = job.execute_in_process(run_config=past, instance=instance, raise_on_error=False)
    (failure,) = (event for event in failed.all_events if event.is_step_failure)
    assert "optinfer ended with code 2" in str(failure.event_specific_data), failure
print("ok")
