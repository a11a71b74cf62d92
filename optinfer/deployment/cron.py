"""A cron expression in a time zone, as far as every scheduler reads it alike; refused where they do not.

What one of them alone knows (seconds, `L`, `#`, `?`, `@reboot`) is refused, and so are a day of the month and a day of
the week of which one begins with `*`: some take their union then, some what they share.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo, available_timezones

from optinfer.errors import ConfigError, suggest
from optinfer.plugins import missing_modules

_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_VALUE = r"(?:\d+|[a-z]{3})"
_ITEM = rf"(?:(?:\*|{_VALUE}-{_VALUE})(?:/\d+)?|{_VALUE})"
_FIELD = re.compile(rf"{_ITEM}(?:,{_ITEM})*")
_SUNDAY_AS_7 = re.compile(r"(?<![/\d])7(?!\d)")
_WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_YEAR, _MOST_TICKS = timedelta(days=366), 3000


@dataclass(frozen=True)
class Cron:
    """Five fields that were checked, and the time zone that they are meant in; `read` makes it."""

    expression: str
    zone: str

    @classmethod
    def read(cls, expression: str, zone: str) -> Cron:
        """Check an expression and a time zone.

        Raises:
            ConfigError: one of them is none, or means different things to different schedulers.
        """
        if missing_modules(("croniter",)):
            raise ConfigError('schedules need croniter; install it with: pip install "optinfer[schedule]"')
        if zone not in available_timezones():
            raise ConfigError(
                f"--timezone {zone!r} is no time zone{_nearest(zone)}; write it as Europe/Paris (names: "
                "https://en.wikipedia.org/wiki/List_of_tz_database_time_zones)"
            )
        fields = _MACROS.get(expression.strip().lower(), expression).lower().split()
        if len(fields) != 5 or not all(map(_FIELD.fullmatch, fields)):
            raise ConfigError(
                f'--cron "{expression}" is not five fields that every scheduler reads alike: minute, hour, day of the '
                f"month, month, day of the week, each *, a number, a name, a range, a step or a list of these; write "
                f'it as "0 2 * * *", or one of {", ".join(_MACROS)}'
            )
        found = cls(" ".join(fields), zone)
        found._require_ticks(expression)
        return found

    def _require_ticks(self, given: str) -> None:
        from croniter import CroniterError, croniter

        try:
            croniter.expand(self.expression, strict=True)
        except CroniterError as error:
            raise ConfigError(f'--cron "{given}" never comes: {error}; write it as "0 2 * * *"') from error
        day, weekday = self.expression.split()[2], self.expression.split()[4]
        if _SUNDAY_AS_7.search(weekday) or re.search(r"-(sun|0)\b", weekday):
            raise ConfigError(
                f'--cron "{given}": Kubernetes knows Sunday as 0 or sun and at a range\'s begin only; write it so'
            )
        if day != "*" and weekday != "*" and "*" in day[0] + weekday[0]:
            raise ConfigError(
                f'--cron "{given}" has a day of the month and a day of the week, one beginning with *: schedulers '
                "differ in what that means; list the days instead, as in 1,3,5"
            )

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the ticks after a moment, each in the schedule's time zone."""
        from croniter import croniter

        yield from croniter(self.expression, moment.astimezone(ZoneInfo(self.zone))).all_next(datetime)

    def next_night(self, moment: datetime) -> date:
        return next(self.after(moment)).date()

    def shares_a_day(self, moment: datetime) -> bool:
        """Tell whether a day has several ticks, which are then for the same date."""
        ticks = list(islice(self.after(moment), 100))
        return len({tick.date() for tick in ticks}) < len(ticks)

    def odd_nights(self, moment: datetime) -> list[str]:
        """Name the ticks of the next year whose hour is left out, or comes twice, where clocks are put on or back."""
        from croniter import croniter

        start = moment.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None)
        ticks = croniter(self.expression, start).all_next(datetime)
        within = takewhile(lambda tick: tick < start + _YEAR, islice(ticks, _MOST_TICKS))
        return [f"{tick:%Y-%m-%d %H:%M} {said}" for tick in within if (said := _oddity(tick, ZoneInfo(self.zone)))]

    def calendars(self) -> list[str]:
        """Return the same as systemd's calendar events, of which any starts the timer.

        systemd wants a day of the month and of the week both; cron one of them, where both are said.
        """
        from croniter import croniter

        minutes, hours, days, months, weekdays = croniter.expand(self.expression)[0]
        time = f"{_listed(hours)}:{_listed(minutes)}:00 {self.zone}"
        names = ",".join(_WEEKDAYS[int(number)] for number in weekdays if number != "*")
        of_month, of_week = f"*-{_listed(months)}-{_listed(days)} {time}", f"{names} *-{_listed(months)}-* {time}"
        if not names:
            return [of_month]
        return [of_week] if _listed(days) == "*" else [of_month, of_week]


def _listed(values: Sequence[int | str]) -> str:
    return ",".join(str(value) if value == "*" else f"{value:02}" for value in values)


def _nearest(zone: str) -> str:
    same = [name for name in available_timezones() if name.lower().endswith(zone.lower())] if zone.strip() else []
    if same:
        return f"; did you mean {min(same, key=len)!r}?"
    return suggest(zone, available_timezones()).partition(" valid:")[0].rstrip(";")


def _oddity(wall: datetime, zone: ZoneInfo) -> str:
    aware = wall.replace(tzinfo=zone)
    if aware.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != wall:
        return "does not exist"
    return "comes twice" if aware.utcoffset() != aware.replace(fold=1).utcoffset() else ""
