"""optinfer: every row scored exactly once, by the fastest variant of your model that proved it gives the same answers.

The public API; heavy libraries load when a job runs, not on import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optinfer.errors import OptinferError

if TYPE_CHECKING:
    from optinfer.api import compare, optimize, plan, run, tune
    from optinfer.commands.explain import explain
    from optinfer.commands.init import init
    from optinfer.commands.make_table import make_table
    from optinfer.commands.promote import promote
    from optinfer.commands.verify import verify
    from optinfer.config import JobConfig
    from optinfer.execution.in_process import InProcess
    from optinfer.job_file import load_job

__all__ = [
    "InProcess", "JobConfig", "OptinferError", "compare", "explain", "init", "load_job", "make_table", "optimize",
    "plan", "promote", "run", "tune", "verify",
]  # fmt: skip
__version__ = "0.1.0"

_HOMES = {
    "InProcess": "optinfer.execution.in_process",
    "JobConfig": "optinfer.config",
    "compare": "optinfer.api",
    "explain": "optinfer.commands.explain",
    "init": "optinfer.commands.init",
    "load_job": "optinfer.job_file",
    "make_table": "optinfer.commands.make_table",
    "optimize": "optinfer.api",
    "plan": "optinfer.api",
    "promote": "optinfer.commands.promote",
    "run": "optinfer.api",
    "tune": "optinfer.api",
    "verify": "optinfer.commands.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'optinfer' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
