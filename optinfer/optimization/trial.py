"""Measures a candidate in a process of its own: one that crashes or hangs ends its trial, not the job.

Its memory is its own, too, and so are the threads its runtime starts. `python -m optinfer.optimization.trial FILE` is
the other side; FILE holds the pickled arguments of `certify`, written by the parent a moment before.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import optinfer.errors
from optinfer.errors import OptinferError
from optinfer.optimization.certificate import Certificate, certify
from optinfer.quiet import muted

_LAST_WORDS = 500


def certify_apart(*arguments: Any, time_limit: float) -> Certificate:
    """Return `certify(*arguments)`, run in a new process of at most `time_limit` seconds.

    Raises:
        OptinferError: of the class the trial raised; or it died, or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="optinfer-trial-") as folder:
        task, answer = Path(folder, "task"), Path(folder, "answer")
        task.write_bytes(pickle.dumps(arguments))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-m", "optinfer.optimization.trial", str(task), str(answer)]
        try:
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=time_limit)
        except subprocess.TimeoutExpired:
            raise OptinferError(
                f"measuring it took more than {time_limit:g} s and was ended; raise selection.time_budget"
            ) from None
        if not answer.is_file():
            raise OptinferError(f"the process that measured it {_death(ended)}")
        result = pickle.loads(answer.read_bytes())
    if isinstance(result, Certificate):
        return result
    raise getattr(optinfer.errors, result[0], OptinferError)(result[1])


def _death(ended: subprocess.CompletedProcess[str]) -> str:
    code = ended.returncode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"{how} {ended.stderr.strip()[-_LAST_WORDS:]}".strip()


def _main(task: str, answer: str) -> None:
    with muted():
        try:
            result: Any = certify(*pickle.loads(Path(task).read_bytes()))
        except OptinferError as error:
            result = (type(error).__name__, str(error))
        except Exception as error:
            result = (OptinferError.__name__, f"{type(error).__name__}: {error}")
    aside = Path(f"{answer}.part")
    aside.write_bytes(pickle.dumps(result))
    aside.rename(answer)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])
