"""From a difference with its interval to a decision: better, not worse, worse, or how many rows would tell. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from optinfer.monitoring.paired import Difference

Verdict = Literal["better", "not worse", "worse", "cannot tell"]
# An interval a hundred times narrower takes ten thousand times the rows.
_NEVER = 100.0


@dataclass(frozen=True)
class Decision:
    """What an interval allows to say.

    Attributes:
        reason: in a line, with the numbers.
        more_rows: about so many more rows would tell, should the difference stay; None where it is decided, or where
            no number of rows can tell.
    """

    verdict: Verdict
    reason: str
    more_rows: int | None = None


def decide(found: Difference, rows: int, margin: float) -> Decision:
    """Hold an interval against a margin; what overlaps it decides nothing.

    `not worse` is the non-inferiority test by interval: it is said wrongly in at most half of what the interval leaves
    out, 2.5% at 95%.

    Args:
        rows: that the interval is from.
        margin: a loss up to this is none, in the metric's own units; 0 allows none.
    """
    interval = f"{found.value:+.4f}, {found.level:.0%} interval {found.low:+.4f} to {found.high:+.4f}"
    if found.low > 0:
        return Decision("better", f"{interval}: above 0")
    if found.low > -margin:
        return Decision("not worse", f"{interval}: above -{margin:g}, the loss that is allowed")
    if found.high < -margin:
        return Decision("worse", f"{interval}: below -{margin:g}, the loss that is allowed")
    more = _more_rows(found, rows, margin)
    wanted = f"about {more:,} more rows would tell" if more is not None else "it lies too near for any number of rows"
    return Decision("cannot tell", f"{interval}: -{margin:g} lies inside; {wanted}", more)


def _more_rows(found: Difference, rows: int, margin: float) -> int | None:
    """Return how many rows more shrink the interval until the limit lies outside: its width falls with their root."""
    distance = found.value + margin
    reach = found.value - found.low if distance > 0 else found.high - found.value
    if not math.isfinite(reach) or abs(distance) < reach / _NEVER:
        return None
    return max(1, math.ceil(rows * ((reach / distance) ** 2 - 1)))
