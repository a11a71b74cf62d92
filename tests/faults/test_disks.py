"""Disks that are full or read-only under a whole job: a named error and its fix, no half part, and it goes on with room."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO
from tests.faults.disks import CASES, ROWS

APART = ["unshare", "--user", "--map-root-user", "--mount"]
# What a job ends with at once; the others do without that folder, and say so.
ENDED = {
    "output full at once": "no room is left for ",
    "output full before a part": "no room is left for ",
    "output full half way": "no room is left for ",
    "output read-only": "Read-only file system",
    "home full at once": "No space left on device; free or repair the place, or set OPTINFER_HOME",
    "home read-only": "Read-only file system; free or repair the place, or set OPTINFER_HOME",
}
FEW = ("output full half way", "home full at once", "home read-only")

Ended = dict[str, list[dict[str, Any]]]


def _ended(folder: Path, cases: list[str]) -> Ended:
    if not shutil.which("unshare") or subprocess.run([*APART, "mount", "-t", "tmpfs", "none", "/mnt"]).returncode:
        pytest.skip("this system lets nobody mount in a namespace of their own")
    command = [*APART, sys.executable, "-m", "tests.faults.disks", str(folder), *cases]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: Ended = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return _ended(tmp_path_factory.mktemp("few"), list(FEW))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return _ended(tmp_path_factory.mktemp("others"), [case for case in CASES if case not in FEW])


def require_sound(case: str, first: dict[str, Any], planned: dict[str, Any], again: dict[str, Any]) -> None:
    for ended in (first, planned, again):
        assert "Traceback" not in ended["said"], ended["said"]
    if case in ENDED:
        (line,) = (line for line in first["said"].splitlines() if line.startswith("error: "))
        assert ENDED[case] in line
        assert first["code"] == 1
        assert "_SUCCESS" not in first["left"]
        assert first["rows"] < ROWS
    else:
        assert first["code"] == 0, first["said"]
        assert first["rows"] == ROWS
    assert planned["code"] == 0, f"a plan writes nothing: {planned['said']}"
    assert again["code"] == 0, again["said"]
    assert "_SUCCESS" in again["left"]
    assert again["rows"] == ROWS


@pytest.mark.slow
@pytest.mark.parametrize("case", FEW)
def test_a_disk_without_room_ends_a_job_by_name_and_it_goes_on(case: str, few: Ended) -> None:
    require_sound(case, *few[case])


@pytest.mark.cluster
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", [case for case in CASES if case not in FEW])
def test_each_folder_of_a_job_may_be_full_or_read_only(case: str, others: Ended) -> None:
    require_sound(case, *others[case])
