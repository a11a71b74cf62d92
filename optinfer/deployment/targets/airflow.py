"""An Airflow 3 DAG: one run at a time, none for the past, each told its logical date."""

from __future__ import annotations

from optinfer.deployment.targets import Schedule, Target
from optinfer.deployment.targets._script import PROGRAM

_DAG = '''\
"""The job {job}, at "{cron}" in {zone}; rendered by `optinfer schedule`.

A night that was missed: airflow dags trigger {name} --logical-date 2026-11-25T12:00:00+00:00
"""

import subprocess
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from airflow.sdk import DAG, CronTriggerTimetable, task
from airflow.sdk.exceptions import AirflowFailException

ZONE = ZoneInfo({zone!r})
COMMAND = {command!r}
FINAL = (2, 3, 4, 5)  # another try would end the same

with DAG(
    dag_id={name!r},
    schedule=CronTriggerTimetable({cron!r}, timezone={zone!r}),
    start_date=datetime({year}, {month}, {day}, tzinfo=ZONE),
    catchup=False,
    max_active_runs=1,
    tags=["optinfer"],
):

    @task(retries={retries}, retry_delay=timedelta(minutes=5))
    def score(dag_run=None):
        """Run the night of the run's logical date; a retry is for the same one."""
        night = (dag_run.logical_date or dag_run.run_after).astimezone(ZONE).date().isoformat()
        done = subprocess.run([*COMMAND, "--logical-date", night], cwd={folder!r}, check=False)
        if done.returncode in FINAL:
            raise AirflowFailException(f"optinfer ended with code {{done.returncode}}; its log says why")
        done.check_returncode()

    score()
'''


def _render(schedule: Schedule) -> dict[str, str]:
    year, month, day = map(int, schedule.night.split("-"))
    file = f"{schedule.name.replace('-', '_')}.py"
    return {
        file: _DAG.format(
            job=schedule.config.name,
            cron=schedule.cron.expression,
            zone=schedule.cron.zone,
            name=schedule.name,
            command=[*PROGRAM, *schedule.arguments(str(schedule.job))],
            year=year,
            month=month,
            day=day,
            # `optinfer submit` tries again itself.
            retries=0 if schedule.options.address else schedule.retries,
            folder=str(schedule.folder),
        )
    }


target = Target(
    about="an Airflow 3 DAG",
    render=_render,
    then=lambda schedule: (f"copy it into Airflow's dags folder; then: airflow dags unpause {schedule.name}",),
    takes=("address", "retries"),
)
