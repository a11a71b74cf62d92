"""A systemd service and its timer. A night on which the machine was off starts when it is on again, once."""

from __future__ import annotations

import shlex

from optinfer.deployment.targets import Schedule, Target
from optinfer.deployment.targets._script import script, script_name

_SERVICE = """\
# Rendered by `optinfer schedule`.
[Unit]
Description=optinfer: a night of the job {job}

[Service]
Type=oneshot
ExecStart=/bin/sh "{script}"
# An interrupted job closes its record; started again it goes on from there.
TimeoutStopSec=60
"""
_TIMER = """\
# Rendered by `optinfer schedule` from "{cron}" in {zone}.
[Unit]
Description=optinfer: the job {job}, each night

[Timer]
{calendars}
# Off at that time: start when on again. Several nights missed are one start, for today; see docs/schedule.md.
Persistent=true
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def _quoted(path: str) -> str:
    return path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")


def _render(schedule: Schedule) -> dict[str, str]:
    job = schedule.config.name
    return {
        f"{schedule.name}.service": _SERVICE.format(job=job, script=_quoted(str(schedule.out / script_name(schedule)))),
        f"{schedule.name}.timer": _TIMER.format(
            job=job,
            cron=schedule.cron.expression,
            zone=schedule.cron.zone,
            calendars="\n".join(f"OnCalendar={event}" for event in schedule.cron.calendars()),
        ),
        script_name(schedule): script(schedule),
    }


def _then(schedule: Schedule) -> tuple[str, ...]:
    units = shlex.join(str(schedule.out / f"{schedule.name}.{kind}") for kind in ("service", "timer"))
    return (
        f"systemctl --user link {units}",
        f"systemctl --user enable --now {schedule.name}.timer",
        "loginctl enable-linger    # nights without somebody logged in",
    )


target = Target(about="a service and a timer", render=_render, then=_then, takes=("address", "retries"))
