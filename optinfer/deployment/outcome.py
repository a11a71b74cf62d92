"""What the end of a submitted job means: the exit code that scripts rely on, and what a person can do about it."""

from __future__ import annotations

import json
import signal

from optinfer.deployment.jobs import STOPPED, SUCCEEDED, JobState
from optinfer.errors import INTERRUPTED, scrubbed

FAILURE = 1
_NOT_FOUND = 127
# A shell says 128 + N of a command that signal N ended.
_BY_SIGNAL = 128
_RESUMED_AFTER = (FAILURE, INTERRUPTED)
_LONGEST = 300


def exit_code(state: JobState) -> int:
    """Return the job's own code; 130 where it was stopped, 1 where it was lost or killed and gave none."""
    if state.status == SUCCEEDED:
        return 0
    if state.status == STOPPED:
        return INTERRUPTED
    return FAILURE if not state.exit_code or _killed_by(state) else state.exit_code


def worth_another(state: JobState) -> bool:
    """Tell whether to go on with a job by submitting it again: not what ended as it would again, nor what was stopped.

    Somebody who stops a job from another terminal does not want it back.
    """
    return state.status != STOPPED and exit_code(state) in _RESUMED_AFTER


def explained(state: JobState, log: str) -> str:
    """Return a line about a job's end, with the fix where its log shows a known cause."""
    line = f"{state.id} {state.status.lower()}, exit code {exit_code(state)}"
    if number := _killed_by(state):
        line += f": its process was killed by {_name(number)}" + (
            ", for want of memory perhaps" if number == signal.SIGKILL else ""
        )
    elif state.status != SUCCEEDED and state.exit_code is None and (said := _last_line(state.message)):
        line += f": {said}"
    return line + _fix(state, log)


def answer_in(line: str) -> dict[str, object] | None:
    """Return what `optinfer run --json` answered, if this line of a log is its answer."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("status"), str) else None


def _fix(state: JobState, log: str) -> str:
    if state.exit_code == FAILURE and "No module named optinfer" in log:
        return (
            "; the cluster's Python has no optinfer: install it in the image or environment of every node, or name "
            "another interpreter with --python"
        )
    if state.exit_code == _NOT_FOUND:
        return "; the cluster has no such command: name its interpreter with --python, python3 for example"
    return ""


def _killed_by(state: JobState) -> int | None:
    """Return the signal that ended the driver; not the interrupt, which optinfer reports itself."""
    code = state.exit_code
    if code is None or code == INTERRUPTED:
        return None
    if code < 0:
        return -code
    return code - _BY_SIGNAL if code > _BY_SIGNAL else None


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(message: str) -> str:
    """Return the last line of what Ray says, which may end a traceback."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return scrubbed(lines[-1])[:_LONGEST] if lines else ""
