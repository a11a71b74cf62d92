"""The fake backend with faults, installed for tests as a third party's plugin would be, by entry point.

Options (they arrive in the artifact's load_options):
    folder: where replicas of one job meet; every call leaves a file in `calls` there, whose name
        begins with its rows. The process whose id is in
        `driver` there, and those it starts to certify, stay healthy: faults happen in replicas only.
    hold_after: calls after which every further one blocks until somebody writes to the FIFO `hold`.
    (a file `refuse` there): replicas cannot be loaded as long as it exists.
    die_once: the first replica that claims the file `die` here is killed.
    die_at_width: a replica that sees a micro-batch at least this many tokens wide is killed.
    hang_at_width: a replica that sees a micro-batch at least this many tokens wide blocks for ever.
    raise_at_width: a replica that sees a micro-batch of just this many tokens raises.
    die_at_rows: a replica that sees a micro-batch of at least this many rows is killed.
    sign: what a replica's answers are multiplied with, so that they tell one variant from another.
    ran_in: the precision that a replica says it ran in.
    ran_on: the device that a replica says it ran on, where that is not the one it was asked to.

On the device `cuda` it stands for a GPU that is not there: Ray is told of one, nothing runs on it.
"""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optinfer.backends import Arrays, Backend, Executed, Execution
from optinfer.backends.fake import FakeSession
from optinfer.backends.fake import backend as fake
from optinfer.models.artifact import Artifact


def load(artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> FakeSession:
    driver = Path(artifact.load_options["folder"], "driver")
    if driver.exists() and int(driver.read_text()) in (os.getpid(), os.getppid()):
        return FakeSession(execution)
    if Path(artifact.load_options["folder"], "refuse").exists():
        raise RuntimeError("no kernel for this device")
    return FaultySession(execution, **artifact.load_options)


class FaultySession(FakeSession):
    def __init__(
        self,
        execution: Execution,
        folder: str,
        hold_after: int | None = None,
        die_once: bool = False,
        die_at_width: int | None = None,
        die_at_rows: int | None = None,
        hang_at_width: int | None = None,
        raise_at_width: int | None = None,
        sign: int = 1,
        ran_in: str | None = None,
        ran_on: str | None = None,
    ) -> None:
        super().__init__(execution)
        self._folder = Path(folder)
        self._hold_after = hold_after
        self._die_once = die_once
        self._die_at_width = die_at_width
        self._die_at_rows = die_at_rows
        self._hang_at_width = hang_at_width
        self._raise_at_width = raise_at_width
        self._sign = sign
        self._ran_in = ran_in
        self._ran_on = ran_on

    def __call__(self, inputs: Arrays) -> Arrays:
        rows, width = next(iter(inputs.values())).shape[:2]
        if "attention_mask" in inputs:  # padding is no row's fault
            width = int(inputs["attention_mask"].sum(axis=1).max())
        too_large = (self._die_at_width and width >= self._die_at_width) or (
            self._die_at_rows and rows >= self._die_at_rows
        )
        if (self._die_once and self._claimed("die")) or too_large:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._hang_at_width and width >= self._hang_at_width:
            threading.Event().wait()
        if width == self._raise_at_width:
            raise ValueError(f"no row may be {width} wide")
        if threading.current_thread().name.startswith("optinfer-load"):  # canaries: answered as it was certified
            certified = 1 if (self._folder / "driver").exists() else self._sign
            return {name: certified * values for name, values in super().__call__(inputs).items()}
        calls = self._folder / "calls"
        (calls / f"{rows}-{uuid.uuid4().hex}").touch()
        if self._hold_after is not None and len(os.listdir(calls)) > self._hold_after:
            (self._folder / "hold").read_bytes()
        return {name: self._sign * values for name, values in super().__call__(inputs).items()}

    def executed(self) -> Executed:
        found = super().executed()
        if self._ran_in:
            found = {**found, "precisions": {self._ran_in: 1}}
        return {**found, "device": self._ran_on} if self._ran_on else found

    def _claimed(self, name: str) -> bool:
        try:
            (self._folder / name).unlink()
        except FileNotFoundError:
            return False
        return True


backend = Backend(formats=fake.formats, max_batch_tokens={"cpu": 4096, "cuda": 4096}, load=load)
