"""A small job's command line in a process of its own, which dies at one of its storage operations.

The processes are forked from one that has imported everything, so that each is there in a moment.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

from optinfer.cli import main
from optinfer.execution.in_process import InProcess
from optinfer.execution.placement import Node
from optinfer.execution.scorer import FragmentScorer, receipts
from optinfer.execution.task import ScoringTask
from optinfer.execution.todo import Todo
from optinfer.optimization.variants import VARIANTS, Variant
from optinfer.records.placement import Placement
from optinfer.records.receipt import Receipt
from tests import refused_calls

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

    def started(
        self,
        job: Path,
        watched: str = "",
        die_at: int = -1,
        replicas: bool = False,
        refused: Mapping[str, int] | None = None,
        verb: str = "run",
        **environment: str,
    ) -> BaseProcess:
        """Start a run of a job, or what else is to be done with it.

        Args:
            watched: folder whose operations are counted.
            die_at: the number of the operation before which who does it is killed.
            refused: system calls that the kernel refuses it (see refused_calls.py).
            replicas: those of replicas are counted alone, which are processes of their own then, and are replaced.
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
        watch = Watch(watched, self._counted, die_at, replicas) if watched else None
        command = [verb, str(job), "--json"]
        arguments = ({**inherited, **environment}, command, self._said, watch, refused or {})
        process = self._context.Process(target=_run, args=arguments)
        process.start()
        return process

    def ended(self, process: BaseProcess) -> Ended:
        process.join(280)
        code = process.exitcode
        assert code is not None, f"it does not end: {self._said.read_text()}"
        return Ended(code, self._said.read_text(), tuple(self._counted.read_text().splitlines()))

    def run(self, job: Path, **options: Any) -> Ended:
        return self.ended(self.started(job, **options))


@dataclass(frozen=True)
class Watch:
    """What is counted, and what of it kills."""

    folder: str
    counted: Path
    die_at: int
    replicas: bool

    def begin(self) -> None:
        main, file, count = os.getpid(), os.open(self.counted, os.O_WRONLY | os.O_APPEND), RawValue("l", 0)

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event not in _OPERATIONS or not arguments or not isinstance(arguments[0], (str, bytes, os.PathLike)):
                return
            path = os.fsdecode(arguments[0])
            if not path.startswith(self.folder) or (self.replicas and os.getpid() == main):
                return
            count.value += 1
            if count.value == self.die_at + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(file, f"{event} {path.removeprefix(self.folder)}\n".encode())

        sys.addaudithook(watch)


class Apart(InProcess):
    """Replicas one after another, each in a process of its own; one that dies is replaced, as Ray does."""

    def stream(self, task: ScoringTask, placements: Sequence[Placement], todo: Todo) -> Generator[Receipt, None, None]:
        for run in todo.runs(1):
            answers = (self._answer(task, run) for _ in range(3))
            yield from receipts(next(filter(None, answers)))

    @staticmethod
    def _answer(task: ScoringTask, run: str) -> dict[str, str] | None:
        read, write = os.pipe()
        if not (replica := os.fork()):
            os.close(read)
            with open(write, "w") as told:
                json.dump(FragmentScorer(task, task.pools[0])({"run": run}), told)
            os._exit(0)
        os.close(write)
        with open(read) as heard:
            answer = heard.read()
        _, status = os.waitpid(replica, 0)
        return json.loads(answer) if status == 0 else None


def _run(
    environment: dict[str, str], arguments: list[str], said: Path, watch: Watch | None, refused: Mapping[str, int]
) -> None:
    os.environ.update(environment)
    tempfile.tempdir = None  # as it was found in the process that this one is forked from
    stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    executor = Apart if watch and watch.replicas else InProcess
    if watch:
        watch.begin()
    if refused:
        refused_calls.refuse(refused)
    VARIANTS["fake"] = Variant(name="fake", backend="fake", about="for tests")
    code = 0
    try:
        main(arguments, lambda address: executor([Node(cpus=2)]))
    except SystemExit as ended:
        code = int(ended.code or 0)
    sys.stdout.flush()
    os._exit(code)
