"""The shell script of a night, for what starts a program on this machine."""

from __future__ import annotations

import shlex
import sys

from optinfer.deployment.targets import Schedule

PROGRAM = [sys.executable, "-m", "optinfer"]

_SCRIPT = """\
#!/bin/sh
# A night of the job {job}: {name}.sh [YYYY-MM-DD]; without a date today's in {zone}.
# The same command catches up a night that was missed, and goes on with one that was cut off.
# Rendered by `optinfer schedule`. It ends with optinfer's exit code.
cd {folder} || exit 2
if [ $# -gt 0 ]; then
    night=$1
elif [ -e /usr/share/zoneinfo/{zone} ]; then
    night=$(TZ={zone} date +%F)
else
    echo "there is no time zone {zone} on this machine: install tzdata, or give a date" >&2
    exit 2
fi
{run}
"""
# The night was fixed above: a try after midnight is for the same one.
_TRIES = """\
tries={tries}
while :; do
    {command} --logical-date "$night"
    code=$?
    # 1: failed; 134 and more: crashed or killed. The rest will not be another time what it is not now.
    case $code in 1 | 13[4-9]) tries=$((tries - 1)) ;; *) exit "$code" ;; esac
    [ "$tries" -gt 0 ] || exit "$code"
    sleep "${{OPTINFER_RETRY_SECONDS:-300}}"
done"""


def script_name(schedule: Schedule) -> str:
    return f"{schedule.name}.sh"


def script(schedule: Schedule) -> str:
    """Return the script; where the job is submitted, `optinfer submit` tries again itself."""
    command = shlex.join([*PROGRAM, *schedule.arguments(str(schedule.job))])
    submitted = schedule.options.address is not None
    return _SCRIPT.format(
        job=schedule.config.name,
        name=schedule.name,
        zone=schedule.cron.zone,
        folder=shlex.quote(str(schedule.folder)),
        run=f'exec {command} --logical-date "$night"'
        if submitted
        else _TRIES.format(tries=schedule.retries + 1, command=command),
    )
