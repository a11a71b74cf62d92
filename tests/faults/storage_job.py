"""A small job's command line in a process of its own, which dies at one of its storage operations.

The processes are forked from one that has imported everything, so that each is there in a moment.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# Told by Python before each is done; `open` is of reading and of writing.
_OPERATIONS = (
    *("open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree"),
)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code, negative where a signal ended it.
        said: what it wrote to both streams.
        operations: what it did in the folder that was watched, in order.
    """

    code: int
    said: str
    operations: tuple[str, ...]


class Commands:
    """Runs commands, one after another, in processes forked from one that is ready.

    Args:
        folder: for what they write and count.
    """

    def __init__(self, folder: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.faults.storage_job_imports"])
        self._said, self._counted = folder / "said", folder / "counted"

    def started(self, job: Path, watched: str = "", die_at: int = -1, **environment: str) -> BaseProcess:
        """Start a run of a job.

        Args:
            watched: folder whose operations are counted.
            die_at: the number of the operation before which it kills itself.
        """
        self._counted.write_text("")
        names = (
            "OPTINFER_HOME",
            "AWS_ENDPOINT_URL",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_DEFAULT_REGION",
        )
        inherited = {name: os.environ[name] for name in names if name in os.environ}
        arguments = (
            {**inherited, **environment},
            ["run", str(job), "--json"],
            self._said,
            self._counted,
            watched,
            die_at,
        )
        process = self._context.Process(target=_run, args=arguments)
        process.start()
        return process

    def ended(self, process: BaseProcess) -> Ended:
        process.join(120)
        code = process.exitcode
        assert code is not None, f"it does not end: {self._said.read_text()}"
        return Ended(code, self._said.read_text(), tuple(self._counted.read_text().splitlines()))

    def run(self, job: Path, **options: Any) -> Ended:
        return self.ended(self.started(job, **options))


def _run(
    environment: dict[str, str], arguments: list[str], said: Path, counted: Path, watched: str, die_at: int
) -> None:
    os.environ.update(environment)
    stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    if watched:
        sys.addaudithook(_watching(watched, os.open(counted, os.O_WRONLY | os.O_APPEND), die_at))
    from optinfer.cli import main
    from optinfer.execution.in_process import InProcess
    from optinfer.execution.placement import Node
    from optinfer.optimization.variants import VARIANTS, Variant

    VARIANTS["fake"] = Variant(name="fake", backend="fake", about="for tests")
    code = 0
    try:
        main(arguments, lambda address: InProcess([Node(cpus=2)]))
    except SystemExit as ended:
        code = int(ended.code or 0)
    sys.stdout.flush()
    os._exit(code)


def _watching(watched: str, counted: int, die_at: int) -> Callable[[str, tuple[Any, ...]], None]:
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _OPERATIONS or not arguments or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        if not (path := os.fsdecode(arguments[0])).startswith(watched):
            return
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        os.write(counted, f"{event} {path.removeprefix(watched)}\n".encode())

    return watch
