"""Dagster: an asset whose nights run through Pipes, and a schedule that asks for each date once."""

from __future__ import annotations

from optinfer.deployment.targets import Schedule, Target
from optinfer.deployment.targets._script import PROGRAM

_DEFINITIONS = '''\
"""The job {job}, at "{cron}" in {zone}; rendered by `optinfer schedule`.

A night that was missed: launch the asset with its date as `logical_date` in the run's config.
"""

import sys
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg

NIGHT = Path(__file__).with_name({pipes!r})
# What ended this way may end otherwise another time: failed, crashed, killed.
WORTH_A_TRY = {{1, -6, -7, -9, -11}}


class Night(dg.Config):
    logical_date: str


@dg.asset(name={asset!r}, retry_policy=dg.RetryPolicy(max_retries={retries}, delay=300))
def scored(context: dg.AssetExecutionContext, config: Night, pipes: dg.PipesSubprocessClient):
    """Score a night; what optinfer reports is the materialization's metadata."""
    done = pipes.run(context=context, command=[sys.executable, str(NIGHT), config.logical_date])
    code = done.get_custom_messages()[-1]["exit_code"]
    if code:
        raise dg.Failure(f"optinfer ended with code {{code}}; its log says why", allow_retries=code in WORTH_A_TRY)
    return done.get_materialize_result()


nights = dg.define_asset_job("{asset}_job", selection=[scored])


@dg.schedule(name="{asset}_schedule", job=nights, cron_schedule={cron!r}, execution_timezone={zone!r})
def every_night(context: dg.ScheduleEvaluationContext):
    """Ask for the tick's date, in the schedule's zone; the same date is asked for once."""
    night = context.scheduled_execution_time.astimezone(ZoneInfo({zone!r})).date().isoformat()
    return dg.RunRequest(run_key=night, run_config=dg.RunConfig({{{asset!r}: Night(logical_date=night)}}))


defs = dg.Definitions(
    assets=[scored],
    jobs=[nights],
    schedules=[every_night],
    resources={{"pipes": dg.PipesSubprocessClient()}},
)
'''
_PIPES = '''\
"""A night of the job {job}, reported through Dagster Pipes: started by Dagster with a date."""

import json
import subprocess
import sys

from dagster_pipes import open_dagster_pipes

COMMAND = {command!r}
TOLD = {told!r}

with open_dagster_pipes() as pipes:
    command = [*COMMAND, "--logical-date", sys.argv[1], "--json"]
    done = subprocess.run(command, cwd={folder!r}, stdout=subprocess.PIPE, text=True, check=False)
    pipes.report_custom_message({{"exit_code": done.returncode}})
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        record = json.loads(lines[-1])
        pipes.report_asset_materialization(metadata={{key: record[key] for key in TOLD if record.get(key) is not None}})
    elif lines:
        pipes.log.error(lines[-1])
'''
_TOLD = ("status", "rows_in", "rows_out", "rows_quarantined", "variant", "output", "run_id")


def _render(schedule: Schedule) -> dict[str, str]:
    asset = schedule.name.replace("-", "_")
    words = {
        "job": schedule.config.name,
        "cron": schedule.cron.expression,
        "zone": schedule.cron.zone,
        "asset": asset,
        "pipes": f"{asset}_night.py",
        "retries": schedule.retries,
        "command": [*PROGRAM, *schedule.arguments(str(schedule.job))],
        "folder": str(schedule.folder),
        "told": _TOLD,
    }
    return {f"{asset}.py": _DEFINITIONS.format(**words), f"{asset}_night.py": _PIPES.format(**words)}


target = Target(
    about="Dagster definitions: an asset through Pipes, and its schedule",
    render=_render,
    then=lambda schedule: (
        f"dagster definitions validate -f {schedule.out}/{schedule.name.replace('-', '_')}.py",
        "then start the schedule in Dagster: it is stopped at first",
    ),
    takes=("retries",),
)
