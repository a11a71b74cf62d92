"""Whose run it is, of which file, at which commit: the tags that MLflow's own `start_run` sets.

They are known to the process that runs the job alone, and wanted in its journal before MLflow is imported: so they are
worked out here. Where the program is our own command, what ran is the job file that it was given, not the program.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

USER, NAME, KIND = "mlflow.user", "mlflow.source.name", "mlflow.source.type"
COMMIT, BRANCH = "mlflow.source.git.commit", "mlflow.source.git.branch"
_COMMANDS = ("optinfer", "optinfer.exe")
_JOB_FILES = (".yaml", ".yml")
_GIT_SECONDS = 2.0
# Where notebook servers and editors say which notebook a kernel is of.
_NOTEBOOK_NAMES = ("__vsc_ipynb_file__", "IPYNB_FILE", "JPY_SESSION_NAME")


def tags(arguments: Sequence[str] | None = None) -> dict[str, str]:
    """Return the tags of this process; those that nothing tells are left out.

    Args:
        arguments: program and arguments; None takes this process's own.
    """
    notebook = _in_notebook()
    name = _notebook() if notebook else _source(sys.argv if arguments is None else arguments)
    folder = os.getcwd() if notebook else os.path.dirname(os.path.abspath(name))
    return {
        USER: _user(),
        NAME: name or "<console>",
        KIND: "NOTEBOOK" if notebook else "LOCAL",
        **_commit(folder),
    }


def of(tags: Mapping[str, str]) -> dict[str, str]:
    """Return those of a run's tags that say where it came from."""
    return {key: tags[key] for key in (USER, NAME, KIND, COMMIT, BRANCH) if key in tags}


def _user() -> str:
    with contextlib.suppress(ImportError, KeyError, OSError):  # a container's user may have no name
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    return "unknown"


def _source(arguments: Sequence[str]) -> str:
    """Return the program's file, or the job file where the program is ours."""
    program = arguments[0] if arguments else ""
    ours = Path(program).name in _COMMANDS or Path(program).parts[-2:] == ("optinfer", "__main__.py")
    jobs = (one for one in arguments[1:] if one.endswith(_JOB_FILES) and os.path.isfile(one))
    return next(jobs, program) if ours else program


def _in_notebook() -> bool:
    """Tell whether this is the kernel of a notebook; IPython is not imported to find out."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell else None
    return found is not None and hasattr(found, "kernel")


def _notebook() -> str:
    names = {**os.environ, **vars(sys.modules["__main__"])}
    return next((os.path.basename(str(names[key])) for key in _NOTEBOOK_NAMES if names.get(key)), "notebook")


def _commit(folder: str) -> dict[str, str]:
    """Return commit and branch of the repository that a folder is in; nothing where it is in none, or git is silent."""
    command = ["git", "-C", folder, "rev-parse", "HEAD", "--abbrev-ref", "HEAD"]
    try:
        told = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        ).stdout.split()
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return dict(zip((COMMIT, BRANCH), [line for line in told if line != "HEAD"], strict=False))
