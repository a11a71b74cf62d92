"""A driver that is killed half way, and the same command again: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pyarrow as pa
import pyarrow.dataset as pads
import pytest

import optinfer
from optinfer.data.output import Output
from optinfer.tracking.journal import read
from tests.conftest import MakeJob, WriteJob, WriteTable, wait_until
from tests.faults.conftest import Driver, StartDriver

pytestmark = pytest.mark.slow

ROWS = 400
# Replicas wait after this many micro-batches, so a kill lands half way on a machine of any speed.
HOLD_AFTER = 20


@pytest.fixture
def source(tmp_path: Path, write_table: WriteTable) -> Path:
    return write_table(tmp_path / "table.parquet", rows=ROWS)


@pytest.fixture
def uninterrupted(source: Path, tmp_path: Path, make_job: MakeJob, fake_variant: str, without_ray: None) -> pa.Table:
    """Return the output of the same job that nobody disturbed."""
    optinfer.run(make_job(source, tmp_path / "expected"))
    return table(str(tmp_path / "expected"))


def table(url: str) -> pa.Table:
    fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return pads.dataset(path, filesystem=fs, format="parquet").to_table()


def details(url: str) -> dict[str, Any]:
    """Return what would change if a part were written again: inode and time, or etag and time."""
    fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    keys = ("ino", "mtime", "ETag", "LastModified", "size")
    return {
        info["name"].rpartition("/")[2]: {k: info.get(k) for k in keys}
        for info in fs.ls(path, detail=True)
        if info["name"].endswith(".parquet")
    }


def half_way(driver: Driver, output: Output, meeting: Path) -> set[str]:
    """Wait until parts are committed and both replicas wait for a signal that never comes; return the parts."""

    def held() -> bool:
        assert driver.alive(), driver.process.communicate()[1]
        return len(list((meeting / "calls").iterdir())) >= HOLD_AFTER + 2 and len(output.sink.committed()) >= 3

    wait_until(held, "three parts, and replicas that wait")
    return output.sink.committed()


@pytest.mark.parametrize("where", ["local", pytest.param("s3", marks=pytest.mark.cluster)])
def test_a_killed_job_goes_on_where_it_was(
    where: str, request: pytest.FixtureRequest, tmp_path: Path, source: Path, meeting: Path,
    uninterrupted: pa.Table, write_job: WriteJob, start_driver: StartDriver,
) -> None:  # fmt: skip
    here, sink = str(source), str(tmp_path / "out")
    if where == "s3":
        bucket = request.getfixturevalue("bucket")
        here, sink = f"{bucket}/table/", f"{bucket}/out/"
        fsspec.filesystem("s3").put(str(source), f"{here}table.parquet")
    output = Output(sink)
    job = write_job(here, sink, variant="faulty")
    faults = {"folder": str(meeting), "hold_after": HOLD_AFTER}

    driver = start_driver(job, **faults)
    half_way(driver, output, meeting)
    driver.kill()
    committed = details(sink)
    assert 3 <= len(committed) < ROWS / 16
    assert output.manifest() is None

    (meeting / "hold").unlink()
    (meeting / "hold").touch()  # nobody waits any more
    record = start_driver(job, **faults).record()
    after = table(sink)
    assert (record["fragments"], record["fragments_resumed"]) == (25, len(committed))
    assert (record["rows_in"], record["rows_out"]) == (ROWS, ROWS)
    assert {name: details(sink)[name] for name in committed} == committed, "a committed part was written again"
    assert after.equals(uninterrupted), "ids, order and vectors are those of an uninterrupted run"
    assert output.manifest() is not None


@pytest.mark.parametrize(
    ("whom", "said"),
    [
        pytest.param("raylet", "Ray's raylet on this machine ended", marks=pytest.mark.cluster),
        pytest.param("gcs_server", "Ray's gcs_server on this machine ended", marks=pytest.mark.cluster),
        pytest.param("command", "this command's process was killed by SIGKILL", marks=pytest.mark.cluster),
    ],
)
def test_a_process_that_a_job_cannot_go_on_without_ends_it_in_one_line_and_gives_the_output_free(
    whom: str, said: str, tmp_path: Path, source: Path, meeting: Path, write_job: WriteJob,
    start_driver: StartDriver, last_journal: Callable[[], Path],
) -> None:  # fmt: skip
    sink = tmp_path / "out"
    driver = start_driver(write_job(source, sink, variant="faulty"), folder=str(meeting), hold_after=HOLD_AFTER)
    half_way(driver, Output(str(sink)), meeting)
    processes = psutil.Process(driver.process.pid).children(recursive=True)
    driver.part(whom).kill()
    out, err = driver.process.communicate(timeout=120)

    assert driver.process.returncode == 1, err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "the same command goes on" in line
    assert "Traceback" not in err
    assert not [line for line in err.splitlines() if line.startswith("[")], "Ray's own lines are kept from people"
    assert json.loads(out.splitlines()[-1])["exit_code"] == 1
    assert not (sink / "_optinfer" / "lock.json").exists()
    assert json.loads((sink / "_optinfer" / "ended.json").read_text())["exit_code"] == 1
    assert json.loads(last_journal().read_text().splitlines()[-1])["status"] == "failed"
    assert not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_a_terminated_job_closes_its_record_and_gives_the_output_free(
    tmp_path: Path,
    source: Path,
    meeting: Path,
    write_job: WriteJob,
    start_driver: StartDriver,
    last_journal: Callable[[], Path],
) -> None:
    sink = tmp_path / "out"
    output = Output(str(sink))
    driver = start_driver(write_job(source, sink, variant="faulty"), folder=str(meeting), hold_after=HOLD_AFTER)
    half_way(driver, output, meeting)
    said = driver.kill(signal.SIGTERM)

    assert driver.process.returncode == 130, said
    assert "the same command goes on" in said
    assert output.sink.committed()
    assert not (sink / "_optinfer" / "lock.json").exists()
    (end,) = (event for event in read(last_journal()) if event["event"] == "finish")
    assert end["status"] == "interrupted"
