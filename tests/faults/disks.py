"""Small jobs of which a folder is on a disk that is full or read-only, then the same command with room.

Usage: unshare --user --map-root-user --mount python -m tests.faults.disks FOLDER [CASE]...; the last line of stdout is
one JSON object: {case: [how it ended, how it ended again]}. The disks are of this process alone, and gone with it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from tests.conftest import REPO, everything_under, job_settings
from tests.faults.storage_job import Commands

ROWS = 160
_Disk = Callable[[Path], AbstractContextManager[None]]


@contextlib.contextmanager
def _of_size(kilobytes: int, place: Path) -> Iterator[None]:
    """Let a folder lie on a disk with so much room left; when the block ends it has more."""
    before = place.rename(place.with_name("before"))
    place.mkdir()
    _mount("-t", "tmpfs", "none", place)
    shutil.copytree(before, place, dirs_exist_ok=True, symlinks=True)
    size = max(shutil.disk_usage(place).used // 1024 + kilobytes, 4)  # 0 would be without an end
    _mount("-o", f"remount,size={size}k", place)
    yield
    _mount("-o", "remount,size=1g", place)


@contextlib.contextmanager
def _read_only(place: Path) -> Iterator[None]:
    _mount("--bind", place, place)
    _mount("-o", "remount,bind,ro", place)
    yield
    subprocess.run(["umount", str(place)], check=True)


def _mount(*arguments: Any) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


# What is on the disk, and the disk. Kilobytes are those that are left where its model is proved already: the job needs
# more at one of its steps.
CASES: dict[str, tuple[str, _Disk]] = {
    "output full at once": ("output", partial(_of_size, 4)),
    "output full before a part": ("output", partial(_of_size, 24)),
    "output full half way": ("output", partial(_of_size, 100)),
    "output read-only": ("output", _read_only),
    "home full at once": ("home", partial(_of_size, 0)),
    "home full for MLflow": ("home", partial(_of_size, 60)),
    "home read-only": ("home", _read_only),
    "tmp full": ("tmp", partial(_of_size, 0)),
    "tmp read-only": ("tmp", _read_only),
}


class Jobs:
    """The same job, once for each case, with folders of its own; its model is proved once, in a home that is copied."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._commands = folder, Commands(folder)
        pq.write_table(
            pq.read_table(REPO / "jobs" / "data" / "packages.parquet").slice(0, ROWS), folder / "table.parquet"
        )
        (folder / "proved").mkdir()
        self._run({"output": folder / "first", "home": folder / "proved", "tmp": folder})

    def ended(self, case: str) -> list[dict[str, Any]]:
        where, disk = CASES[case]
        places = {name: self._folder / case.replace(" ", "-") / name for name in ("output", "home", "tmp")}
        shutil.copytree(self._folder / "proved", places["home"])
        for name in ("output", "tmp"):
            places[name].mkdir()
        with disk(places[where]):
            found = [self._run(places), self._run(places, "plan")]
        return [*found, self._run(places)]

    def _run(self, places: dict[str, Path], verb: str = "run") -> dict[str, Any]:
        job = self._folder / "job.yaml"
        job.write_text(yaml.safe_dump(job_settings(self._folder / "table.parquet", places["output"])))
        environment = {"OPTINFER_HOME": str(places["home"]), "TMPDIR": str(places["tmp"])}
        ended = self._commands.run(job, verb=verb, **environment)
        left = everything_under(places["output"])
        parts = [name for name in left if name.startswith("part-")]
        rows = [pq.read_metadata(places["output"] / name).num_rows for name in parts]
        return {"code": ended.code, "said": ended.said, "left": left, "rows": sum(rows)}


def main(folder: Path, cases: list[str]) -> None:
    jobs = Jobs(folder)
    print(json.dumps({case: jobs.ended(case) for case in cases or CASES}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
