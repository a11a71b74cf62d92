"""Keeps other libraries' chatter out of a job's output: what a person reads there is about the job.

Errors still surface as exceptions. stdout matters most, because `--json` promises one object on it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator

_CHATTY = (
    "alembic",
    "mlflow",
    "nncf",
    "onnx_ir",
    "onnxscript",
    "openlineage",
    "torch.onnx",
    "torch.utils._pytree",
    "torchao",
    "transformers",
    "urllib3",  # its warnings repeat whole URLs, credentials included
)


def hush() -> None:
    """Let the chatty libraries log errors only; call before they are imported, it outlasts their own set-up."""
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    # What these log as an error, traceback and all, they raise, too, and then a person reads it in one line.
    for name in ("mlflow.store.db.utils", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # In a notebook, of bars that nobody draws there.
    warnings.filterwarnings("ignore", message="IProgress not found")


_lock = threading.Lock()
_depth = 0
_muting = contextlib.ExitStack()


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Drop what is printed, warned or logged below an error in a `with` block; for builds, which cannot be told to.

    The streams belong to the whole process: of several threads in such a block the first takes them away and the last
    brings them back. Each doing both would leave them lost.
    """
    global _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            _muting.enter_context(_mute())
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _muting.close()


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    hush()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            with contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                yield
    finally:
        root.setLevel(level)
