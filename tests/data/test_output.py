"""The output folder: bound to one job, committed fragment by fragment, exactly once."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.data.account import Accounts
from optinfer.data.binding import fingerprint
from optinfer.data.fragments import Fragment, Plan
from optinfer.data.output import Output
from optinfer.data.sinks.parquet import FOOTER_KEY, ParquetSink
from optinfer.data.storage import Folder
from optinfer.errors import OutputConflictError, StorageError
from optinfer.records.binding import Bound, FrozenJob
from optinfer.records.manifest import Manifest
from optinfer.records.run import RunRecord
from tests.conftest import REPO, fragments
from tests.data import flaky_store
from tests.data.committing import lying, put
from tests.data.flaky_store import FlakyStore

FRAGMENT = Fragment(3, "table.parquet", 30, 33)
PART = "part-000003.parquet"
PLAN = Plan(files=(), fragments=fragments(*((3 * i, 3 * i + 3) for i in range(11))), schema=pa.schema([]))


def job(**fields: Any) -> FrozenJob:
    return FrozenJob(fingerprint=fingerprint(fields), fields=fields)


def bad(*numbers: int) -> pa.Table:
    """Return quarantined rows of these numbers."""
    return pa.table({"id": [f"r{i}" for i in numbers], "_row": numbers, "_reason": ["odd"] * len(numbers)})


def rows(*values: float) -> pa.Table:
    return pa.table({"id": [f"r{i}" for i in range(len(values))], "score": list(values)})


def finish(output: Output) -> Manifest:
    run = RunRecord(run_id="r", fragments=11, rows_in=3)
    return output.finish(Manifest(run=run), Accounts(output.folder, "f1"), PLAN)


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Output:
    return Output(f"{request.getfixturevalue('bucket')}/out/" if request.param == "s3" else str(tmp_path / "out"))


def stored(output: Output, name: str) -> bytes:
    data = output.folder.read(name)
    assert data is not None
    return data


def test_a_commit_is_one_file_that_says_what_it_holds(output: Output) -> None:
    put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None)

    assert output.sink.committed() == {PART}
    part = lying(output, PART)
    assert part is not None
    assert {k: part.footer[k] for k in ("fragment", "fingerprint", "rows_in", "rows_out", "rows_quarantined")} == {
        "fragment": 3,
        "fingerprint": "f1",
        "rows_in": 3,
        "rows_out": 3,
        "rows_quarantined": 0,
    }


def test_the_first_commit_wins(output: Output) -> None:
    put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None)
    before = stored(output, PART)
    put(output, PART, FRAGMENT, "f1", "a1", rows(9, 9, 9), None)
    assert stored(output, PART) == before


def test_a_second_commit_of_another_job_is_refused(output: Output) -> None:
    put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None)
    before = stored(output, PART)
    with pytest.raises(OutputConflictError, match=r"committed by another run with other content.*new sink\.path"):
        put(output, PART, FRAGMENT, "f2", "a1", rows(1, 2, 3), None)
    assert stored(output, PART) == before


def test_a_second_commit_with_other_counts_is_refused(output: Output) -> None:
    put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None)
    with pytest.raises(OutputConflictError):
        put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2), bad(2))


def test_quarantined_rows_lie_beside_their_part(output: Output) -> None:
    record = put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2), bad(2))

    assert (record.rows_out, record.rows_quarantined) == (2, 1)
    assert output.folder.look(record.quarantine_file, pq.read_table).num_rows == 1
    assert record.quarantine_file.startswith("_quarantine/part-000003-")


def test_quarantine_is_written_before_the_part_that_names_it(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    (tmp_path / "_quarantine").touch()  # nothing can be put into it
    with pytest.raises(StorageError, match="_quarantine"):
        put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2), bad(2))
    assert output.sink.committed() == set()


def test_resume_is_a_listing(output: Output) -> None:
    for index in (4, 1):
        put(output, f"part-{index:06d}.parquet", Fragment(index, "t", 0, 1), "f1", "a1", rows(1), None)
    output.folder.put("other.parquet", b"x")
    output.folder.put("part-000009.parquet.tmp", b"x")

    again = Output(output.folder.url)
    assert again.sink.committed() == {"part-000001.parquet", "part-000004.parquet"}
    assert [part and part.fragment for part in again.sink.read(sorted(again.sink.committed()))] == [1, 4]


def test_an_output_is_bound_to_its_first_job(output: Output) -> None:
    assert output.binding.freeze(job(rows=1), PLAN) is False
    assert output.binding.freeze(job(rows=1), PLAN) is True
    assert output.binding.planned_fragments() == 11


def test_another_job_is_refused_with_the_fields_that_differ(output: Output) -> None:
    output.binding.freeze(job(source={"rows": 1, "path": "a"}, variant="x"), PLAN)
    put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None)
    with pytest.raises(OutputConflictError) as refused:
        output.binding.freeze(job(source={"rows": 2, "path": "a"}, variant="y"), PLAN)
    assert str(refused.value).splitlines()[1:] == [
        "  source.rows: 1 there, 2 here",
        '  variant: "x" there, "y" here',
        "choose a new sink.path, or delete the folder to score everything again",
    ]


def test_foreign_parquet_files_are_not_written_beside(output: Output) -> None:
    output.folder.put("sales.parquet", b"x")
    with pytest.raises(OutputConflictError, match="optinfer did not write; choose an empty"):
        output.binding.freeze(job(), PLAN)
    assert output.binding.job() is None


def test_a_foreign_file_with_a_parts_name_is_refused(output: Output) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(rows(1), sink)
    output.folder.put(PART, sink.getvalue().to_pybytes())
    with pytest.raises(OutputConflictError, match=r"optinfer did not write"):
        output.binding.freeze(job(), PLAN)


def test_committed_rows_bind_the_output_to_their_artifact(output: Output) -> None:
    output.binding.bind_variant(Bound(variant="a", artifact="1"))
    output.binding.bind_variant(Bound(variant="b", artifact="2"))  # nothing is committed yet
    put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None)
    output.binding.bind_variant(Bound(variant="b", artifact="2"))
    with pytest.raises(OutputConflictError, match=r"partly filled by b \(artifact 2\).*would use c \(artifact 3\)"):
        output.binding.bind_variant(Bound(variant="c", artifact="3"))


def test_a_manifest_counts_only_with_its_success_marker(output: Output) -> None:
    output.binding.freeze(job(), PLAN)
    output.folder.put("_manifest.json", json.dumps({"run": {}}).encode())
    assert output.manifest() is None
    finish(output)
    manifest = output.manifest()
    assert manifest is not None
    assert manifest.run.rows_in == 3


def test_a_finished_output_is_finished_for_its_own_job_only(output: Output) -> None:
    mine, other = job(rows=1), job(rows=2)
    output.binding.freeze(mine, PLAN)
    manifest = finish(output)
    assert output.finished(mine.fingerprint) == manifest
    assert output.finished(other.fingerprint) is None


def test_an_empty_table_gives_one_part_with_a_schema(output: Output) -> None:
    schema = pa.schema([("id", pa.string()), ("score", pa.float64())])
    for _ in range(2):  # also when a crash came between this commit and the manifest
        output.commit_empty(PLAN, "f1", schema)
    table = output.folder.look("part-000000.parquet", pq.read_table)
    assert table.num_rows == 0
    assert table.schema.remove_metadata() == schema


def test_footers_hold_no_metadata_but_ours(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    put(output, PART, FRAGMENT, "f1", "a1", rows(1).replace_schema_metadata({"pandas": "{}"}), None)
    assert set(pq.read_schema(tmp_path / PART).metadata) == {FOOTER_KEY}


def test_parts_that_another_artifact_made_are_refused(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None)
    found = output.resume(Accounts(output.folder, "f1"), PLAN)
    output.binding.require_artifacts(["a1"], found)
    output.binding.require_artifacts(["a2", "a1"], found)
    with pytest.raises(OutputConflictError, match="holds fragments by artifact a1, this run uses a2: no output mixes"):
        output.binding.require_artifacts(["a2"], found)


def test_another_variant_of_the_same_job_may_have_been_first(output: Output) -> None:
    first = put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2), bad(2), variant="first")
    before = stored(output, PART)
    # The second has an answer for every row: it need not agree on what cannot be scored.
    won = put(output, PART, FRAGMENT, "f1", "a2", rows(1, 2, 3), None, variant="second", allowed={"a1", "a2"})
    assert won == replace(first, stamp=None)
    assert (won.artifact, won.variant, won.rows_quarantined) == ("a1", "first", 1)
    assert stored(output, PART) == before


def test_who_gives_way_leaves_no_quarantine_file_behind(output: Output) -> None:
    first = put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2), bad(2), variant="first")
    put(output, PART, FRAGMENT, "f1", "a2", rows(1), bad(1, 2), variant="second", allowed={"a1", "a2"})
    assert [f"_quarantine/{name}" for name in output.folder.names(under="_quarantine")] == [first.quarantine_file]
    put(output, PART, FRAGMENT, "f1", "a2", rows(1, 2), bad(2), variant="second", allowed={"a1", "a2"})
    assert [f"_quarantine/{name}" for name in output.folder.names(under="_quarantine")] == [first.quarantine_file]


def test_a_part_that_names_no_variant_has_this_ones_counts_or_is_a_strangers(output: Output) -> None:
    put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None)
    with pytest.raises(OutputConflictError, match="other content"):
        put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2), bad(2), variant="first", allowed={"a1"})


@pytest.mark.parametrize(
    ("fingerprint", "allowed"), [("f1", {"a2", "a3"}), ("f2", {"a1", "a2"})], ids=["stranger", "another job"]
)
def test_nobody_else_may_have_been_first(output: Output, fingerprint: str, allowed: set[str]) -> None:
    put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None, variant="first")
    with pytest.raises(OutputConflictError, match="committed by another run with other content"):
        put(output, PART, FRAGMENT, fingerprint, "a2", rows(1, 2, 3), None, variant="second", allowed=allowed)


def test_two_variants_on_one_artifact_are_told_apart(output: Output) -> None:
    put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2), bad(2), variant="first")
    won = put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None, variant="second", allowed={"a1"})
    assert (won.variant, won.rows_out) == ("first", 2)


def test_an_output_is_bound_to_both_variants(output: Output) -> None:
    both = Bound(variant="a", artifact="1", beside=Bound(variant="b", artifact="2"))
    output.binding.bind_variant(both)
    assert output.binding.bound_variants() == (), "nothing is committed yet"
    put(output, PART, FRAGMENT, "f1", "1", rows(1, 2, 3), None)
    output.binding.bind_variant(both)
    assert output.binding.bound_variants() == ("a", "b")
    with pytest.raises(OutputConflictError, match=r"filled by a \(artifact 1\) and b \(artifact 2\), .* use a \(arti"):
        output.binding.bind_variant(Bound(variant="a", artifact="1"))


def reasons(output: Output, name: str) -> list[str]:
    found: list[str] = output.folder.look(name, pq.read_table)["_reason"].to_pylist()
    return found


def told(reason: str, *numbers: int) -> pa.Table:
    return bad(*numbers).set_column(2, "_reason", [[reason] * len(numbers)])


def test_a_row_is_once_in_quarantine_whatever_its_reason_was_called(output: Output) -> None:
    put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2), told("cuda: out of memory at 0x1", 2))
    output.folder.delete(PART)  # as after a death between its quarantine file and its part
    assert output.sink.committed() == set()
    record = put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2), told("out of memory at 0x2", 2))
    (name,) = output.folder.names(under="_quarantine")
    assert record.quarantine_file == f"_quarantine/{name}"
    assert record.quarantine_bytes == len(stored(output, record.quarantine_file))
    assert reasons(output, record.quarantine_file) == ["cuda: out of memory at 0x1"]


@pytest.mark.parametrize("left", [b"", b"PAR1 cut"])
def test_a_quarantine_file_that_is_no_whole_one_is_put_again(output: Output, left: bytes) -> None:
    name = put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2), told("odd", 2)).quarantine_file
    output.folder.delete(PART)
    output.folder.put(name, left)
    put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2), told("odd", 2))
    assert reasons(output, name) == ["odd"]


def test_attempts_that_race_leave_the_winners_quarantine_file(output: Output) -> None:
    class Overtaken(Folder):
        def create(self, name: str, data: bytes) -> int | None:
            if name == PART:  # another attempt goes from start to end before this one's part
                put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2), told("in other words", 2))
            return super().create(name, data)

    overtaken = ParquetSink(output.folder.url, Overtaken)
    record = put(overtaken, PART, FRAGMENT, "f1", "a1", rows(1, 2), told("odd", 2))
    assert [f"_quarantine/{name}" for name in output.folder.names(under="_quarantine")] == [record.quarantine_file]
    assert len(stored(output, record.quarantine_file)) == record.quarantine_bytes


@pytest.mark.parametrize("there", [b"", b"PAR1", b"not a part at all"], ids=["empty", "cut", "garbage"])
def test_what_lies_at_a_parts_name_and_is_none_gives_way(output: Output, there: bytes) -> None:
    output.folder.put(PART, there)
    record = put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None)
    assert len(stored(output, PART)) == record.bytes
    assert lying(output, PART) == replace(record, stamp=None)


@pytest.mark.parametrize("look", [1, 2])
def test_a_part_that_another_puts_while_what_lay_there_is_looked_at_stays(output: Output, look: int) -> None:
    looks = []

    class Overtaken(Folder):
        def remove(self, name: str, unwanted: Callable[[bytes], bool]) -> None:
            def looked_at(data: bytes) -> bool:
                looks.append(data)
                if len(looks) == look:
                    output.folder.delete(PART)
                    looks.append(put(output, PART, FRAGMENT, "f1", "a1", rows(4, 5, 6), None))
                return unwanted(data)

            super().remove(name, looked_at)

    output.folder.put(PART, b"garbage")
    record = put(ParquetSink(output.folder.url, Overtaken), PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None)
    assert looks[look - 1] == b"garbage"
    assert lying(output, PART) == replace(looks[look], stamp=None) == replace(record, stamp=None)
    assert pq.read_table(io.BytesIO(stored(output, PART)))["score"].to_pylist() == [4, 5, 6]
    assert output.folder.names(under="_optinfer/staging") == []


def test_a_part_that_was_written_again_with_fewer_rows_is_none(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None)
    table = pq.read_table(tmp_path / PART)
    pq.write_table(table.slice(1), tmp_path / PART)  # our footer is kept
    assert lying(output, PART) is None


def test_a_folder_that_goes_while_a_file_is_put_is_made_again(tmp_path: Path) -> None:
    left = [2]

    class Removed(Folder):
        def _from_stage(self, name: str, data: bytes, take: Callable[[Path, Path], None]) -> None:
            def removed_before(staged: Path, target: Path) -> None:
                if left[0]:
                    left[0] -= 1
                    shutil.rmtree(tmp_path / "out")
                take(staged, target)

            super()._from_stage(name, data, removed_before)

    sink = ParquetSink(str(tmp_path / "out"), Removed)
    put(sink, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None)
    assert (sink.committed(), left) == ({PART}, [0])


def test_a_copy_of_another_part_gives_way_and_anothers_jobs_part_does_not(output: Output) -> None:
    put(output, "part-000004.parquet", Fragment(4, "t", 0, 3), "f1", "a1", rows(7, 8, 9), None)
    output.folder.put(PART, stored(output, "part-000004.parquet"))
    assert put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None).fragment == 3
    output.folder.put("part-000005.parquet", stored(output, "part-000004.parquet"))
    with pytest.raises(OutputConflictError, match="committed by another run"):
        put(output, "part-000005.parquet", Fragment(5, "t", 0, 3), "f2", "a1", rows(1, 2, 3), None)
    with pytest.raises(OutputConflictError, match=r"part-000003\.parquet is of another job"):
        output.resume(Accounts(output.folder, "f2"), PLAN)
    assert len(output.sink.committed()) == 3


def test_removing_what_is_lost_asks_for_none_of_it(bucket: str, flaky: FlakyStore) -> None:
    """Where the whole folder goes during a run, all parts are lost: no store is asked for each of them."""
    output = Output(f"{bucket}/out")
    accounts = Accounts(output.folder, "f1")
    for index in (3, 5):
        fragment = Fragment(index, "table.parquet", 30, 33)
        record = put(output, PLAN.part_name(index), fragment, "f1", "a1", rows(0.5, 0.25), bad(32))
        accounts.add(record)
    output.folder.delete(PLAN.part_name(5))
    flaky.asked.clear()
    output.remove(np.arange(11), accounts.table(), 11)
    asked = {found for _, path in flaky.asked if (found := re.search(r"out/(_quarantine/)?(part-\d+)", path))}
    assert {found.group(1, 2) for found in asked} == {
        ("_quarantine/", "part-000003"),
        ("_quarantine/", "part-000005"),
        (None, "part-000003"),
    }
    assert output.sink.committed() == set()
    assert output.folder.names(under="_quarantine") == []


def listings(method: str, path: str, headers: flaky_store.Headers) -> bool:
    return method == "GET" and "list-type=2" in path


def test_no_part_is_removed_on_the_word_of_one_listing(bucket: str, flaky: FlakyStore) -> None:
    """A byte of it flipped on the way, and nothing that S3 says of sizes is signed."""
    output, accounts = Output(f"{bucket}/out"), Accounts(Folder(f"{bucket}/out"), "f1")
    accounts.add(put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None))
    flaky.meets, flaky.faults = listings, [flaky_store.other_sizes]
    found = output.compare(accounts, PLAN)
    assert not flaky.faults
    assert [reason for reason in found.reasons if "never committed" not in reason] == []


def test_no_part_is_removed_on_the_word_of_one_read(bucket: str, flaky: FlakyStore) -> None:
    output = Output(f"{bucket}/out")
    made = put(output, PART, FRAGMENT, "f1", "a1", rows(1, 2, 3), None)
    flaky.meets, flaky.faults = lambda method, path, headers: method == "GET", [flaky_store.half_the_range]
    assert output.sink.read([PART]) == [replace(made, stamp=None)]
    assert not flaky.faults


@pytest.mark.skipif(shutil.which("strace") is None, reason="nothing here shows what a process asks of its disk")
@pytest.mark.parametrize("kind", ["parquet", "delta"])
def test_no_power_cut_leaves_a_success_without_its_parts(tmp_path: Path, kind: str) -> None:
    """The names of all that `_SUCCESS` vouches for are on the disk before it is, and its own after that."""
    trace, out = tmp_path / "trace", tmp_path / "out"
    script = (
        "from tests.data.test_output import *\n"
        f"output = Output({str(out)!r}, {kind!r})\n"
        "accounts = Accounts(output.folder, 'f1')\n"
        "accounts.add(put(output, PART, FRAGMENT, 'f1', 'a1', rows(1, 2), bad(2)))\n"
        "output.finish(Manifest(run=RunRecord(run_id='r', fragments=11, rows_in=3)), accounts, PLAN)\n"
    )
    log = [f"out/_delta_log/{0:020d}.json"] if kind == "delta" else []
    calls = "trace=fsync,link,linkat,rename,renameat,renameat2"
    command = ["strace", "-f", "-y", "-s", "300", "-e", calls, "-o", str(trace), sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=200, check=False)
    if "PTRACE" in ended.stderr:
        pytest.skip("no process may be traced here")
    assert ended.returncode == 0, ended.stderr
    lines = trace.read_text().splitlines()

    def last(*words: str) -> int:
        return max(at for at, line in enumerate(lines) if all(word in line for word in words))

    success = last("rename", "/out/_SUCCESS")
    for folder, name in (
        ("out", PART),
        ("out", "_manifest.json"),
        ("out/_quarantine", "part-"),
        ("out/_optinfer", "parts."),
    ):
        named = last(f"{tmp_path}/{folder}/{name}")
        assert any("fsync(" in line and f"<{tmp_path}/{folder}>" in line for line in lines[named:success]), folder
    for kept in log:
        assert any("fsync(" in line and f"<{tmp_path}/{kept}>" in line for line in lines[:success]), kept
    assert any("fsync(" in line and f"<{out}>" in line for line in lines[success:])
