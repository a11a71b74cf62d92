"""A crontab's line. The script that it starts needs no lock of its own: the job's output is the lock."""

from __future__ import annotations

import shlex

from optinfer.deployment.targets import Schedule, Target
from optinfer.deployment.targets._script import script, script_name

_TABLE = """\
# The job {job}, at "{cron}" in {zone}; rendered by `optinfer schedule`.
# CRON_TZ is read by cronie (Fedora, RHEL, Arch; Debian's package `cronie`). Debian's and Ubuntu's `cron` ignores it and
# takes the machine's time zone: there use --target systemd, or let the machine's zone be {zone}. It holds for the lines
# below it. A second tick for one night ends with code 5 and says who has the output, or finds it done.
CRON_TZ={zone}
{cron} {command}
"""


def _table(schedule: Schedule) -> str:
    log = shlex.quote(str(schedule.out / f"{schedule.name}.log"))
    command = f"{shlex.quote(str(schedule.out / script_name(schedule)))} >> {log} 2>&1"
    return _TABLE.format(
        job=schedule.config.name,
        cron=schedule.cron.expression,
        zone=schedule.cron.zone,
        command=command.replace("%", r"\%"),  # else a line break for cron
    )


target = Target(
    about="a crontab's line",
    render=lambda schedule: {
        f"{schedule.name}.crontab": _table(schedule),
        script_name(schedule): script(schedule),
    },
    then=lambda schedule: (f"(crontab -l; cat {shlex.quote(f'{schedule.out}/{schedule.name}.crontab')}) | crontab -",),
    takes=("address", "retries"),
    warnings=("Debian's and Ubuntu's `cron` ignores CRON_TZ; cronie reads it, and systemd has its own",),
)
