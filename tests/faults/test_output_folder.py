"""`_SUCCESS` stands only over an output that is there: parts and state removed, cut or replaced, and files of others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer import errors
from optinfer.commands.plan import plan as preview
from optinfer.commands.resolved import resolve
from optinfer.commands.status import status
from optinfer.data.account import Accounts
from optinfer.records.text import status_text
from tests.conftest import MakeJob, WriteTable
from tests.faults.changes import Calls, Place, foreign_parquet

pytestmark = pytest.mark.usefixtures("fake_variant", "without_ray")

ROWS = 64  # four fragments
PART = "part-000001.parquet"

Damage = Callable[[Place], None]


@pytest.fixture
def source(tmp_path: Path, write_table: WriteTable) -> Path:
    return write_table(tmp_path / "table.parquet", rows=ROWS)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(f"{request.getfixturevalue('bucket')}/out" if request.param == "s3" else str(tmp_path / "out"))


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "out"))


def holds_every_row(place: Place, source: Path) -> bool:
    """Tell whether pyarrow, and DuckDB where it can, read every planned row once, and nothing else."""
    expected: list[str] = pq.read_table(source)["id"].to_pylist()
    if "file" in place.fs.protocol:
        duck = duckdb.sql(f"select id from '{place.root}/*.parquet'").fetchall()
        assert Counter(row[0] for row in duck) == Counter(expected)
    return bool(place.table()["id"].to_pylist() == expected)


def stop(calls: Calls, call: int) -> None:
    """Interrupt the job before a call of the model."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    calls.at(call, interrupt)


DAMAGES: dict[str, Damage] = {
    "deleted": lambda place: place.unlink(PART),
    "cut short": lambda place: place.cut(PART),
    "emptied": lambda place: place.write(PART, b""),
    "replaced by another's": lambda place: place.write(PART, foreign_parquet()),
    "other content of its size": lambda place: place.write(PART, place.read(PART)[::-1]),
    "replaced by its neighbour": lambda place: place.write(PART, place.read("part-000000.parquet")),
}
damages = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


class TestWhileItRuns:
    @damages
    def test_a_part_that_is_damaged_is_named_and_scored_again(
        self, damage: Damage, place: Place, source: Path, make_job: MakeJob, calls: Calls
    ) -> None:
        calls.at(4, lambda: damage(place))  # the last fragment is in the model
        said: list[str] = []
        record = optinfer.run(make_job(source, place.url), say=said.append)
        assert holds_every_row(place, source)
        assert "_SUCCESS" in place.names()
        assert (record.rows_in, record.rows_out, record.rows_by_variant) == (ROWS, ROWS, {"fake": ROWS})
        assert (record.fragments, record.fragments_resumed, record.fragments_scored_again) == (4, 0, 1)
        assert [line for line in said if PART in line and "is scored again" in line]

    @pytest.mark.parametrize("under", ["", "_optinfer"], ids=["folder", "state"])
    def test_a_folder_that_is_removed_is_made_again(
        self, under: str, place: Place, source: Path, make_job: MakeJob, calls: Calls
    ) -> None:
        job, gone = make_job(source, place.url), 0 if under else 2
        calls.at(3, lambda: place.remove_all(under))
        said: list[str] = []
        record = optinfer.run(job, say=said.append)
        assert holds_every_row(place, source)
        assert (record.rows_out, record.fragments_scored_again) == (ROWS, gone)
        assert any("job.json" in line and "is put back" in line for line in said)
        assert set(place.names("_optinfer")) >= {"job.json", "plan.pq", "variant.json", "parts.pq"}
        assert "lock.json" not in place.names("_optinfer")
        assert optinfer.run(job).status == "nothing to do"

    def test_after_a_removal_accounts_name_every_part_again(
        self, here: Place, source: Path, make_job: MakeJob, calls: Calls
    ) -> None:
        calls.at(3, lambda: here.remove_all("_optinfer"))
        record = optinfer.run(make_job(source, here.url))
        told, damaged = Accounts(optinfer.data.storage.Folder(here.url), record.fingerprint).read()
        assert (sorted(set(told["fragment"].to_pylist())), damaged) == ([0, 1, 2, 3], ())

    @pytest.mark.parametrize(
        "name",
        ["extra.parquet", "year=2024/extra.parquet", "part-000004.parquet", "part-0000001.parquet", "EXTRA.PARQUET",
         "_quarantine/extra.parquet", "part-000001.parquet.bak", "copy/part-000001"],
    )  # fmt: skip
    def test_a_file_of_somebody_else_is_named_and_left_as_it_is(
        self, name: str, here: Place, source: Path, make_job: MakeJob, calls: Calls
    ) -> None:
        job = make_job(source, here.url)
        calls.at(2, lambda: here.write(name, foreign_parquet()))
        with pytest.raises(errors.AccountingError, match=rf"{name}; move them away and run the same command") as caught:
            optinfer.run(job)
        assert caught.value.exit_code == 1
        assert here.read(name) == foreign_parquet()
        assert not {"_SUCCESS", "_manifest.json"} & set(here.names())
        with pytest.raises(errors.AccountingError, match=name):  # before anything is proved or scored
            optinfer.run(job)
        here.unlink(name)
        assert optinfer.run(job).fragments_resumed == 4
        assert holds_every_row(here, source)

    def test_files_that_no_reader_of_parquet_takes_are_nobodys_business(
        self, here: Place, source: Path, make_job: MakeJob, calls: Calls
    ) -> None:
        calls.at(
            2,
            lambda: [here.write(name, b"x") for name in ("_note.txt", ".hidden/a.parquet", "_old/a.parquet")] and None,
        )
        optinfer.run(make_job(source, here.url))
        assert holds_every_row(here, source)

    def test_parts_that_go_as_fast_as_they_come_end_the_job(
        self, here: Place, source: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flush = Accounts.flush

        def flush_and_remove(self: Accounts) -> None:
            flush(self)
            here.unlink(PART)

        monkeypatch.setattr(Accounts, "flush", flush_and_remove)
        with pytest.raises(errors.AccountingError, match=rf"loses parts as fast as they are made: {PART} is missing"):
            optinfer.run(make_job(source, here.url))
        assert not {"_SUCCESS", "_manifest.json"} & set(here.names())

    def test_another_job_in_the_emptied_folder_is_not_overwritten(
        self, here: Place, source: Path, make_job: MakeJob, calls: Calls
    ) -> None:
        def give_away() -> None:
            here.remove_all()
            here.write("_optinfer/job.json", json.dumps({"fingerprint": "other", "fields": {}}).encode())

        calls.at(4, give_away)
        with pytest.raises(errors.OutputConflictError, match="given to another job while this one ran"):
            optinfer.run(make_job(source, here.url))
        assert "_SUCCESS" not in here.names()


class TestQuarantine:
    @pytest.fixture
    def odd(self, tmp_path: Path, write_table: WriteTable) -> Path:
        texts = ["ordinary", None, "fine", "good"] * 16
        return write_table(tmp_path / "odd.parquet", columns={"id": [f"r{i}" for i in range(ROWS)], "text": texts})

    @pytest.mark.parametrize("change", ["deleted", "cut short"])
    def test_a_quarantine_file_is_part_of_the_output(
        self, change: str, place: Place, odd: Path, make_job: MakeJob, calls: Calls
    ) -> None:
        def damage() -> None:
            (name,) = (name for name in place.names("_quarantine") if name.startswith("part-000001"))
            (place.unlink if change == "deleted" else place.cut)(f"_quarantine/{name}")

        calls.at(4, damage)
        record = optinfer.run(make_job(odd, place.url, sink__error_threshold=16))
        assert (record.rows_out, record.rows_quarantined, record.fragments_scored_again) == (48, 16, 1)
        files = [f"{place.root}/_quarantine/{name}" for name in place.names("_quarantine")]
        rows = pads.dataset(files, filesystem=place.fs, format="parquet").to_table()
        assert sorted(rows["_row"].to_pylist()) == list(range(1, ROWS, 4))
        manifest = json.loads(place.read("_manifest.json"))
        assert manifest["quarantine_reasons"] == {"text is null": 16}
        assert manifest["parts"]["quarantine_files"] == len(files) == 4

    def test_what_a_lost_attempt_left_is_removed(self, here: Place, odd: Path, make_job: MakeJob, calls: Calls) -> None:
        left = "_quarantine/part-000001-0123456789ab.pq"
        calls.at(2, lambda: here.write(left, foreign_parquet()))
        optinfer.run(make_job(odd, here.url, sink__error_threshold=16))
        assert len(here.names("_quarantine")) == 4
        assert left.rpartition("/")[2] not in here.names("_quarantine")


class TestResume:
    @damages
    def test_a_damaged_part_is_named_removed_and_scored_again(
        self, damage: Damage, place: Place, source: Path, make_job: MakeJob, calls: Calls
    ) -> None:
        stop(calls, 4)
        with pytest.raises(KeyboardInterrupt):
            optinfer.run(make_job(source, place.url))
        damage(place)
        said: list[str] = []
        record = optinfer.run(make_job(source, place.url), say=said.append)
        assert holds_every_row(place, source)
        assert (record.fragments_resumed, record.rows_out) == (2, ROWS)
        named = any(f"{PART}" in line and "it is removed and scored again" in line for line in said)
        assert named == (damage is not DAMAGES["deleted"])  # what is not there is no news: it is left to score

    def test_a_part_with_another_size_than_its_account_says_is_scored_again(
        self, here: Place, source: Path, make_job: MakeJob
    ) -> None:
        job = make_job(source, here.url)
        optinfer.run(job)
        here.unlink("_SUCCESS")
        table = pq.read_table(f"{here.root}/{PART}")
        pq.write_table(table, f"{here.root}/{PART}", compression="none")  # it opens, and its footer is ours
        said: list[str] = []
        assert optinfer.run(job, say=said.append).fragments_resumed == 3
        assert any(f"{PART} has " in line and "were written; it is removed" in line for line in said)

    def test_an_output_begun_before_sizes_were_kept_goes_on(self, here: Place, source: Path, make_job: MakeJob) -> None:
        job = make_job(source, here.url)
        optinfer.run(job)
        as_before(here, manifest=False)
        here.cut("part-000003.parquet")
        record = optinfer.run(job)
        assert (record.fragments_resumed, record.rows_out) == (3, ROWS)
        assert holds_every_row(here, source)
        inventory = pq.read_table(f"{here.root}/_optinfer/parts.pq")
        assert inventory["bytes"].to_pylist() == [len(here.read(name)) for name in here.parts()]


def as_before(here: Place, manifest: bool = True) -> None:
    """Leave an output as the version before wrote it: no sizes, no digests, no inventory."""
    here.unlink("_optinfer/parts.pq")
    for name in here.names("_optinfer/accounts"):
        path = f"{here.root}/_optinfer/accounts/{name}"
        kept = ["fragment", "rows_in", "rows_out", "rows_quarantined", "artifact", "variant"]
        pq.write_table(pq.read_table(path).select(kept), path)
    old = json.loads(here.read("_manifest.json"))
    del old["parts"]
    here.write("_manifest.json", json.dumps(old).encode())
    if not manifest:
        here.unlink("_manifest.json")
        here.unlink("_SUCCESS")


class TestFinished:
    @pytest.mark.parametrize(
        ("damage", "before"),
        [
            # Of a finished output nothing is read: content of the same size is for `sha256sum` to tell.
            *[pytest.param(DAMAGES[name], False, id=name) for name in DAMAGES if name != "other content of its size"],
            # Nobody knows the sizes.
            *[
                pytest.param(DAMAGES[name], True, id=f"{name}, of the version before")
                for name in ("deleted", "emptied")
            ],
        ],
    )
    def test_a_part_that_no_longer_agrees_is_said_and_made_again(
        self, damage: Damage, before: bool, here: Place, source: Path, make_job: MakeJob
    ) -> None:
        job = make_job(source, here.url)
        optinfer.run(job)
        assert (status(here.url).state, status(here.url).damage) == ("done", ())
        if before:
            as_before(here)
            assert (status(here.url).state, optinfer.run(job).status) == ("done", "nothing to do")
        damage(here)
        found = status(here.url)
        assert (found.state, found.fragments_committed) == ("damaged", 3)
        assert PART in found.damage[0]
        assert PART in status_text(found)
        told = preview(resolve(job))
        assert told.to_score == 1
        assert any(PART in line for line in told.warnings)
        said: list[str] = []
        record = optinfer.run(job, say=said.append)
        assert (record.status, record.fragments_resumed) == ("done", 3)
        assert any("was finished, and no longer is what it was" in line and PART in line for line in said)
        assert holds_every_row(here, source)
        assert status(here.url).state == "done"

    def test_success_is_taken_back_before_anything_else(
        self, here: Place, source: Path, make_job: MakeJob, calls: Calls
    ) -> None:
        job = make_job(source, here.url)
        optinfer.run(job)
        here.unlink(PART)
        stop(calls, 5)
        with pytest.raises(KeyboardInterrupt):
            optinfer.run(job)
        assert not {"_SUCCESS", "_manifest.json"} & set(here.names())

    def test_a_file_that_was_added_later_is_no_row_of_it(self, here: Place, source: Path, make_job: MakeJob) -> None:
        job = make_job(source, here.url)
        optinfer.run(job)
        here.write("extra.parquet", foreign_parquet())
        assert status(here.url).damage == ("extra.parquet is not of this output",)
        with pytest.raises(errors.AccountingError, match=r"extra\.parquet; move them away"):
            optinfer.run(job)
        assert "_SUCCESS" not in here.names()

    def test_the_manifest_keeps_sizes_and_digests_of_what_lies_there(
        self, here: Place, source: Path, make_job: MakeJob
    ) -> None:
        import hashlib

        optinfer.run(make_job(source, here.url))
        told = json.loads(here.read("_manifest.json"))["parts"]
        inventory = here.read(told["file"])
        assert hashlib.sha256(inventory).hexdigest() == told["sha256"]
        rows = pq.read_table(pa.BufferReader(inventory)).to_pylist()
        for row in rows:
            data = here.read(row["part"])
            assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert [row["part"] for row in rows] == here.parts()
        assert (told["count"], told["bytes"]) == (4, sum(row["bytes"] for row in rows))


STATE_FILES = {
    "job": "_optinfer/job.json", "plan": "_optinfer/plan.pq", "variant": "_optinfer/variant.json",
    "lock": "_optinfer/lock.json", "inventory": "_optinfer/parts.pq", "manifest": "_manifest.json",
    "accounts": "",
}  # fmt: skip


CONTENTS = {"empty": b"", "cut": b"{", "other": b"[1]", "garbage": b"PAR1 garbage PAR1", "gone": None}


def spoil(here: Place, name: str, content: bytes | None) -> None:
    for each in [name] if name else [f"_optinfer/accounts/{n}" for n in here.names("_optinfer/accounts")]:
        if content is not None:
            here.write(each, content)
        elif each in here:
            here.unlink(each)


class TestState:
    @pytest.mark.parametrize(
        ("names", "content"),
        [
            *[pytest.param([name], b"PAR1 garbage PAR1", id=key) for key, name in STATE_FILES.items()],
            *[pytest.param(list(STATE_FILES.values()), content, id=f"all {key}") for key, content in CONTENTS.items()],
        ],
    )
    def test_state_that_is_garbage_is_made_again(
        self, names: list[str], content: bytes | None, here: Place, source: Path, make_job: MakeJob
    ) -> None:
        job = make_job(source, here.url)
        optinfer.run(job)
        for name in names:
            spoil(here, name, content)
        here.unlink(PART)  # so that there is something to do
        if STATE_FILES["job"] in names:
            with pytest.raises(
                errors.ConfigError, match=r"cannot be read; `optinfer run`|not the output of an optinfer"
            ):
                status(here.url)
        else:
            assert status(here.url).state == "damaged"
        preview(resolve(job))
        said: list[str] = []
        record = optinfer.run(job, say=said.append)
        assert (record.status, record.fragments_resumed, record.rows_out) == ("done", 3, ROWS)
        assert holds_every_row(here, source)
        assert status(here.url).state == "done"
        dropped = any("cannot be read and is dropped" in line for line in said)
        assert dropped == ("" in names and content is not None)

    @pytest.mark.parametrize("content", [b"", b"[1]", b"PAR1 garbage PAR1"], ids=["empty", "other", "garbage"])
    def test_an_output_without_parts_is_bound_anew(
        self, content: bytes, here: Place, source: Path, make_job: MakeJob
    ) -> None:
        for name in STATE_FILES.values():
            spoil(here, name, content)
        assert optinfer.run(make_job(source, here.url)).rows_out == ROWS

    def test_success_over_a_manifest_that_is_garbage_is_not_believed(
        self, here: Place, source: Path, make_job: MakeJob
    ) -> None:
        job = make_job(source, here.url)
        optinfer.run(job)
        here.cut("_manifest.json", 200)
        assert status(here.url).damage == ("_SUCCESS is there, and _manifest.json is missing, or cannot be read",)
        assert optinfer.run(job).fragments_resumed == 4
        assert optinfer.run(job).status == "nothing to do"


class TestStrangers:
    """A lost record never lets one job's rows pass for another's."""

    def test_parts_of_another_job_whose_record_is_lost_are_refused(
        self, here: Place, source: Path, make_job: MakeJob
    ) -> None:
        optinfer.run(make_job(source, here.url))
        here.write("_optinfer/job.json", b"")
        before = {name: here.read(name) for name in here.parts()}
        with pytest.raises(
            errors.OutputConflictError, match=r"job\.json is missing or cannot be read, and the parts .* another job"
        ):
            optinfer.run(make_job(source, here.url, sink__columns=["section"]))
        assert {name: here.read(name) for name in here.parts()} == before
        assert "_SUCCESS" in here.names()

    def test_parts_of_another_variant_whose_record_is_lost_are_refused(
        self, here: Place, source: Path, make_job: MakeJob
    ) -> None:
        from optinfer.data.output import Output
        from optinfer.records.binding import Bound

        optinfer.run(make_job(source, here.url))
        here.unlink("_SUCCESS")
        here.write("_optinfer/variant.json", b"")
        output, planned = Output(here.url), resolve(make_job(source, here.url))
        found = output.resume(Accounts(output.folder, planned.fingerprint), planned.plan)
        with pytest.raises(errors.OutputConflictError, match="holds fragments by artifact"):
            output.binding.bind_variant(Bound(variant="other", artifact="other"), found)
        assert here.read("_optinfer/variant.json") == b""

    def test_a_late_part_of_another_job_is_refused(self, here: Place, source: Path, make_job: MakeJob) -> None:
        optinfer.run(make_job(source, here.url))
        late = here.read(PART)
        here.remove_all()
        here.write(PART, late)
        optinfer_job = make_job(source, here.url, batching={"max_batch_size": 8})
        with pytest.raises(errors.OutputConflictError, match="another job"):
            optinfer.run(optinfer_job)
        assert here.read(PART) == late
