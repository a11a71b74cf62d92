"""What is left to do when a command's process was ended from outside.

Its output is given free, its journal closed, and those who wait for its end are told: MLflow, a webhook. Its parent
does it (system/guard.py), which has loaded nothing until then.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from optinfer.data.lock import give_free
from optinfer.data.storage import Folder
from optinfer.errors import OptinferError, redact, scrubbed
from optinfer.records.news import Ended
from optinfer.secrets import learn
from optinfer.system import last_resort, will
from optinfer.system.guard import Death
from optinfer.tracking.events import Finished
from optinfer.tracking.journal import close_of_the_dead

_AGAIN = "run the same command again"
_GO_ON = "committed fragments are kept, the same command goes on from them"
# Those that end a process by its own fault; other signals were sent.
_CRASHES = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV")


def what_ended(death: Death) -> BaseException:
    """Return a death as the error that it would have been, had the process lived to raise it."""
    if death.asked:
        return KeyboardInterrupt()
    for note in death.notes:
        if note.kind == will.LOST:
            return OptinferError(note.about["message"])
    next_step = _GO_ON if any(note.kind == will.HELD for note in death.notes) else _AGAIN
    return OptinferError(f"{_said(death)}{_kept(death)}; {next_step}")


def put_in_order(death: Death, error: BaseException, say: Callable[[str], None]) -> None:
    """Do what the process could not do any more, as far as that is possible; it was told already.

    Args:
        say: is told whom the news did not reach.
    """
    learn([dict(note.about) for note in death.notes])
    for about in _of(death, will.HELD):
        with contextlib.suppress(Exception):  # a store may fail in ways of its own: the next run takes over then
            give_free(Folder(about["url"]), about["token"], error)
    _, message = last_resort.ended(error)
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    for about in _of(death, will.JOURNAL):
        with contextlib.suppress(OptinferError, OSError):
            close_of_the_dead(Path(about["path"]), Finished(status=status, tags={"optinfer.error": message[:500]}))
    _tell(death, error, say)


def _tell(death: Death, error: BaseException, say: Callable[[str], None]) -> None:
    """Tell webhook and MLflow at the same time; neither is waited for beyond what a job waits for it."""
    news = None
    if left := _of(death, will.NEWS):
        from optinfer.commands.last_news import OfTheDead

        told = _of(death, will.TOLD)
        if not told or told[-1]:
            news = OfTheDead(left[-1], _ended(told[-1]) if told else None, error)
    for about in _of(death, will.TRACKED):
        if lacks := _not_in_mlflow(about):
            say(f"warning: {lacks}")
    if news:
        news.wait(say)


def _ended(told: Mapping[str, str]) -> Ended:
    return Ended(kind=told["end"], time=0.0, record=json.loads(told["record"]))


def _not_in_mlflow(about: Mapping[str, str]) -> str:
    """Bring a run's journal to MLflow, so that it is not running there for ever; return what keeps it from there."""
    from optinfer.tracking.replay import replay_while_it_answers, story

    try:
        run = story(Path(about["path"]))
    except (OSError, ValueError, LookupError):  # it had not begun
        return ""
    if not (why := replay_while_it_answers(run, about["uri"], about["experiment"])):
        return ""
    return (
        f"MLflow at {redact(about['uri'])} did not take everything ({why}); the journal did: "
        f"`optinfer sync {about['path']}` brings it there"
    )


def _of(death: Death, kind: str) -> list[Mapping[str, str]]:
    return [note.about for note in death.notes if note.kind == kind]


def _said(death: Death) -> str:
    if death.how == "SIGKILL":
        return "this command's process was killed by SIGKILL, sent by somebody or for want of memory (`dmesg` tells)"
    if death.how in _CRASHES:
        return f"this command's process crashed in a native library ({death.how})"
    if death.status < 0:
        return f"this command's process was ended by {death.how}"
    return f"this command's process was ended by a native library ({death.how})"


def _kept(death: Death) -> str:
    if not death.words or death.how == "SIGKILL":  # of which nobody inside knows
        return ""
    with contextlib.suppress(OptinferError):
        return f"; what it said last is in {last_resort.keep(scrubbed(death.words))}"
    return ""
