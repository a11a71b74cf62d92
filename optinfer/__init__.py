"""optinfer: every row scored exactly once, by the fastest variant of your model that proved it gives the same answers.

The public API; heavy libraries load when a job runs, not on import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optinfer.errors import OptinferError

if TYPE_CHECKING:
    from optinfer.commands.optimize import optimize
    from optinfer.commands.run import run
    from optinfer.commands.tune import tune
    from optinfer.config import JobConfig
    from optinfer.execution.in_process import InProcess
    from optinfer.job_file import load_job

__all__ = ["InProcess", "JobConfig", "OptinferError", "load_job", "optimize", "run", "tune"]
__version__ = "0.1.0"

_HOMES = {
    "InProcess": "optinfer.execution.in_process",
    "JobConfig": "optinfer.config",
    "load_job": "optinfer.job_file",
    "optimize": "optinfer.commands.optimize",
    "run": "optinfer.commands.run",
    "tune": "optinfer.commands.tune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'optinfer' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
