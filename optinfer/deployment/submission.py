"""`optinfer submit`: finds a job on a cluster or sends it there, and follows it to its end.

The id says which job it is, so nothing is remembered here: whoever submits the same job, from anywhere, finds it.
"""

from __future__ import annotations

import re
import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import optinfer
from optinfer.deployment.following import Follower, Patience, Say
from optinfer.deployment.jobs import Entry, Jobs, JobState
from optinfer.deployment.outcome import exit_code, explained, worth_another
from optinfer.deployment.packing import JOB_FILE, Package
from optinfer.errors import INTERRUPTED, OptinferError
from optinfer.records.record import Record

# Ray ends what it stops after three seconds: closing a record may take longer on a busy machine.
STOP_SECONDS = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
_STOPPED_WITHIN, _POLL_SECONDS = 120.0, 1.0
_FIRST_BACKOFF, _LONGEST_BACKOFF = 5.0, 300.0
_LONGEST_NAME = 80
DETACHED, NONE = "DETACHED", "NONE"


@dataclass(frozen=True)
class Wish:
    """How a job is to be submitted: what it gets beside its package, and how long to stay with it."""

    python: str = "python"
    env: tuple[tuple[str, str], ...] = ()
    wait: bool = True
    retries: int = 0
    again: str = "the same command"


@dataclass(frozen=True)
class Submitted(Record):
    """What became of a submission; `result` is what `optinfer run --json` answered, if it came so far."""

    submission_id: str | None
    status: str
    exit_code: int
    address: str
    attached: bool = False
    attempts: int = 1
    driver_exit_code: int | None = None
    result: dict[str, object] | None = None


def command(python: str, job_file: str = JOB_FILE) -> str:
    """Return what runs on the cluster."""
    return shlex.join([python, "-m", "optinfer", "run", job_file, "--json"])


def submit(
    jobs: Jobs, package: Package, wish: Wish, say: Say, pause: Callable[[float], None] = time.sleep
) -> Submitted:
    """Send a job unless it is live, and follow it; sent again while it fails as a job may that can be resumed."""
    patience, backoff, attempts = Patience(say, pause=pause), _FIRST_BACKOFF, 0
    while True:
        attempts += 1
        done = replace(_submit_once(jobs, package, wish, patience), attempts=attempts)
        again = attempts <= wish.retries and done.submission_id and done.status != DETACHED and wish.wait
        if not again or not worth_another(JobState(str(done.submission_id), done.status, done.driver_exit_code)):
            return done
        say(f"submitting it again in {backoff:g} s ({attempts} of {wish.retries} retries)")
        pause(backoff)
        backoff = min(2 * backoff, _LONGEST_BACKOFF)


def stop(jobs: Jobs, package: Package, say: Say, pause: Callable[[float], None] = time.sleep) -> Submitted:
    """Stop a job that is live, and wait until it has ended.

    Raises:
        OptinferError: it goes on.
    """
    live = _live(_known(jobs, package))
    if live is None:
        say(f"nothing to stop: this job is not live{_namesakes(jobs, package)}")
        return Submitted(None, NONE, 0, jobs.address)
    patience, until = Patience(say, pause=pause), time.monotonic() + _STOPPED_WITHIN
    state = live
    while not state.ended:
        if time.monotonic() > until:
            raise OptinferError(
                f"{live.id} was asked to stop and still is {state.status.lower()}; run the same command again, or "
                f"`ray job stop {live.id}`"
            )
        patience.ask(lambda: jobs.stop(live.id))
        pause(_POLL_SECONDS)
        state = patience.ask(lambda: jobs.state(live.id))
    say(f"{live.id} {state.status.lower()}; what it committed is kept")
    return Submitted(live.id, state.status, 0, jobs.address, attached=True, driver_exit_code=state.exit_code)


def _submit_once(jobs: Jobs, package: Package, wish: Wish, patience: Patience) -> Submitted:
    id, attached = _found_or_sent(jobs, package, wish, patience)
    if not wish.wait:
        state = patience.ask(lambda: jobs.state(id))
        return Submitted(id, state.status, 0, jobs.address, attached)
    following = Follower(jobs, id, patience)
    try:
        state = following.to_its_end()
    except KeyboardInterrupt:
        patience.say(f"detached: {id} goes on\n  attach again: {wish.again}\n  end it:       {wish.again} --stop")
        return Submitted(id, DETACHED, INTERRUPTED, jobs.address, attached)
    patience.say(explained(state, following.log))
    return Submitted(
        submission_id=id,
        status=state.status,
        exit_code=exit_code(state),
        address=jobs.address,
        attached=attached,
        driver_exit_code=state.exit_code,
        result=following.answer,
    )


def _found_or_sent(jobs: Jobs, package: Package, wish: Wish, patience: Patience) -> tuple[str, bool]:
    """Return the job's id, and whether it was there already."""
    known = patience.ask(lambda: _known(jobs, package))
    if live := _live(known):
        patience.say(f"attached to {live.id}, which is {live.status.lower()} at {jobs.address}")
        return live.id, True
    id = f"{_prefix(package)}{max(known, default=0) + 1}"
    with tempfile.TemporaryDirectory(prefix="optinfer-submit-") as folder:
        package.write(Path(folder))
        entry = Entry(
            command=command(wish.python),
            folder=Path(folder),
            env=STOP_SECONDS | dict(wish.env),
            metadata={"optinfer": optinfer.__version__, "job": package.job.name, "fingerprint": package.fingerprint},
        )
        sent = patience.ask(lambda: jobs.send(id, entry))
    patience.say(f"{'submitted' if sent else 'attached to'} {id} at {jobs.address}")
    return id, not sent


def _prefix(package: Package) -> str:
    return f"{_name_prefix(package)}{package.fingerprint}-"


def _name_prefix(package: Package) -> str:
    return f"optinfer-{package.job.name[:_LONGEST_NAME]}-"


def _known(jobs: Jobs, package: Package) -> dict[int, JobState]:
    """Return the submissions of this very job by their number."""
    form = re.compile(re.escape(_prefix(package)) + r"(\d+)")
    found = ((form.fullmatch(state.id), state) for state in jobs.starting_with(_prefix(package)))
    return {int(match[1]): state for match, state in found if match}


def _live(known: dict[int, JobState]) -> JobState | None:
    return next((known[number] for number in sorted(known, reverse=True) if not known[number].ended), None)


def _namesakes(jobs: Jobs, package: Package) -> str:
    """Name live jobs of the same name and another content: the file was changed since, perhaps."""
    live = [state.id for state in jobs.starting_with(_name_prefix(package)) if not state.ended]
    if not live:
        return ""
    return f"; others of its name are, with another job file, model or code: {', '.join(live)} (`ray job stop ID`)"
