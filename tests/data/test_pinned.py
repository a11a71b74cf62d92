"""The table that is read is the table that was planned, and an outage is not bad data."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.config import SourceConfig
from optinfer.data import pinned
from optinfer.data.fragments import Fragment, Plan
from optinfer.data.listing import list_source
from optinfer.data.partitions import partitions
from optinfer.data.patience import PATIENT, Patience
from optinfer.data.reading import FragmentReader
from optinfer.data.sampling import draw
from optinfer.data.sources.parquet import plan as plan_source
from optinfer.data.sources.parquet import plan_files
from optinfer.errors import ConfigError, CorruptFileError, SourceError
from tests.data import flaky_store
from tests.data.flaky_store import Fault, FlakyStore
from tests.data.watched import Watch, WatchedFile

ROWS = 64
COLUMNS = ["id", "text"]
CHANGED = r"a\.parquet changed since it was planned"
# Asks again at once, where the product waits for up to twenty seconds; and gives up soon.
QUICK, IMPATIENT = Patience(first_wait=0.001), Patience(first_wait=0.001, seconds=0.1)


def rows(word: str = "word") -> pa.Table:
    return pa.table({"id": list(range(ROWS)), "text": [f"{word} {i:03d}" for i in range(ROWS)]})


def content(word: str = "word", **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    options = {"compression": "none", "use_dictionary": False, "row_group_size": 16, **options}
    pq.write_table(rows(word), sink, **options)
    return bytes(sink.getvalue().to_pybytes())


def plan(path: Any, patience: Patience = PATIENT, **settings: Any) -> Plan:
    return plan_source(SourceConfig(path=str(path), fragment_rows=16, **settings), COLUMNS, 16, patience)


def read(fragment: Fragment, patience: Patience = PATIENT) -> list[str]:
    texts: list[str] = FragmentReader(["text"], patience).read(fragment)["text"].to_pylist()
    return texts


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"{request.getfixturevalue('bucket')}/table"


def put(url: str, data: bytes) -> None:
    """Write a file as another program would: a new object, or a new file in the old one's place."""
    if "://" in url:
        fsspec.filesystem("s3").pipe_file(url, data)
    else:
        Path(f"{url}.new").write_bytes(data)
        os.replace(f"{url}.new", url)


def test_what_was_planned_is_read(folder: str) -> None:
    put(f"{folder}/a.parquet", content())
    planned = plan(folder)
    assert [text for f in planned.fragments for text in read(f)] == rows()["text"].to_pylist()
    assert {(f.size, f.version) for f in planned.fragments} == {(planned.files[0].size, planned.files[0].version)}


def test_a_file_replaced_by_one_of_the_same_size_and_rows_is_refused(folder: str) -> None:
    put(f"{folder}/a.parquet", content())
    fragment = plan(folder).fragments[1]
    put(f"{folder}/a.parquet", content("next"))
    with pytest.raises(SourceError, match=CHANGED) as raised:
        read(fragment)
    assert not isinstance(raised.value, CorruptFileError)


@pytest.mark.parametrize("cut_to", [0, 3, 500])
def test_a_file_that_was_cut_is_refused(folder: str, cut_to: int) -> None:
    put(f"{folder}/a.parquet", content())
    fragment = plan(folder).fragments[1]
    put(f"{folder}/a.parquet", content()[:cut_to])
    with pytest.raises(SourceError, match=CHANGED) as raised:
        read(fragment)
    assert not isinstance(raised.value, CorruptFileError)


def test_a_file_that_is_gone_is_refused_without_waiting(folder: str) -> None:
    put(f"{folder}/a.parquet", content())
    fragment = plan(folder).fragments[1]
    fs, path = fsspec.url_to_fs(f"{folder}/a.parquet")
    fs.rm(path)
    with pytest.raises(SourceError, match=rf"{CHANGED}: it is not there any more") as raised:
        read(fragment)
    assert not isinstance(raised.value, CorruptFileError)


def test_files_that_are_added_later_are_no_part_of_the_plan(folder: str) -> None:
    put(f"{folder}/a.parquet", content())
    planned = plan(folder)
    put(f"{folder}/b.parquet", content("later"))
    assert [text for f in planned.fragments for text in read(f)] == rows()["text"].to_pylist()
    assert plan(folder).files != planned.files


def test_a_sample_is_drawn_of_the_planned_version_even_where_bad_files_are_left_out(folder: str) -> None:
    put(f"{folder}/a.parquet", content())
    put(f"{folder}/b.parquet", content())
    planned = plan(folder)
    put(f"{folder}/a.parquet", content("next"))
    with pytest.raises(SourceError, match=CHANGED):
        draw(planned.fragments, FragmentReader(["text"]), ["text"], 8, 8, skip_unreadable=True)


def test_a_file_touched_since_is_another_version(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content())
    fragment = plan(tmp_path).fragments[1]
    planned = os.stat(path).st_mtime_ns
    os.utime(path, ns=(planned, planned + 1))  # no float tells these two apart
    with pytest.raises(SourceError, match=CHANGED):
        read(fragment)


def while_decoding(happens: Callable[[], Any]) -> Patience:
    """Let something happen when the first row group is fetched, after the file was opened and its footer read."""
    return Watch(happens, at=1).patience


@pytest.mark.parametrize("data", [content("next"), content()[:900], b""], ids=["other rows", "cut", "emptied"])
def test_a_local_file_written_over_while_it_is_read_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content())
    fragment = plan(tmp_path).fragments[1]
    with pytest.raises(SourceError, match=CHANGED) as raised:
        read(fragment, while_decoding(lambda: path.write_bytes(data)))
    assert not isinstance(raised.value, CorruptFileError)


def test_a_local_file_replaced_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    put(str(tmp_path / "a.parquet"), content())
    fragment = plan(tmp_path).fragments[1]
    replaced = while_decoding(lambda: put(str(tmp_path / "a.parquet"), content("next")))
    assert read(fragment, replaced) == rows()["text"].to_pylist()[16:32]


def test_reads_of_an_object_are_conditional_on_what_was_opened(bucket: str) -> None:
    put(f"{bucket}/a.parquet", content())
    file = pinned.opened(f"{bucket}/a.parquet")
    put(f"{bucket}/a.parquet", content("next"))
    with pytest.raises(OSError):
        file.read(100)
    with pytest.raises(pinned.ChangedError):
        file.hold()


@pytest.mark.parametrize(
    "by",
    [lambda url: put(url, content("next")), lambda url: fsspec.filesystem("s3").rm(url)],
    ids=["replaced", "deleted"],
)
def test_an_object_replaced_or_deleted_while_it_is_read_is_refused(bucket: str, by: Callable[[str], None]) -> None:
    put(f"{bucket}/a.parquet", content())
    fragment = plan(f"{bucket}/").fragments[1]
    with pytest.raises(SourceError, match=CHANGED) as raised:
        read(fragment, while_decoding(lambda: by(f"{bucket}/a.parquet")))
    assert not isinstance(raised.value, CorruptFileError)


def test_what_a_reader_keeps_is_of_one_version(folder: str) -> None:
    put(f"{folder}/a.parquet", content(row_group_size=ROWS))
    reader, before = FragmentReader(["text"]), plan(folder).fragments
    reader.read(before[0])
    put(f"{folder}/a.parquet", content("next", row_group_size=ROWS))
    after = plan(folder).fragments
    assert reader.read(after[1])["text"][0].as_py() == "next 016"
    with pytest.raises(SourceError, match=CHANGED):
        reader.read(before[1])


def plan_after(happens: Callable[[], Any], folder: str, **settings: Any) -> Plan:
    """Plan a folder, to which something happens between its listing and the first footer."""
    listing = list_source(folder)
    happens()
    config = SourceConfig(path=folder, fragment_rows=16, **settings)
    return plan_files(config, COLUMNS, 16, partitions(listing.root, listing.files))


def test_a_file_replaced_between_listing_and_footer_is_planned_as_it_is_now(folder: str) -> None:
    put(f"{folder}/a.parquet", content())
    planned = plan_after(lambda: put(f"{folder}/a.parquet", content("next")), folder)
    assert read(planned.fragments[1])[0] == "next 016"


def test_a_file_deleted_between_listing_and_footer_is_said(folder: str) -> None:
    put(f"{folder}/a.parquet", content())
    put(f"{folder}/b.parquet", content())
    fs, stripped = fsspec.url_to_fs(f"{folder}/a.parquet")
    with pytest.raises(SourceError, match=r"a\.parquet changed while it was planned"):
        plan_after(lambda: fs.rm(stripped), folder, on_bad_file="quarantine")


def test_a_local_file_written_over_while_its_footer_is_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content())
    written_over = Watch(lambda: path.write_bytes(content("next"))).patience
    with pytest.raises(SourceError, match="changed while it was planned"):
        plan(tmp_path, written_over, on_bad_file="quarantine")


FAULTS: dict[str, Fault] = {
    "expired token": flaky_store.refusal(400, "ExpiredToken"),
    "forbidden": flaky_store.refusal(403, "AccessDenied"),
    "slow down": flaky_store.refusal(503, "SlowDown"),
    "internal error": flaky_store.refusal(500, "InternalError"),
    "throttled by nobody knows whom": flaky_store.refusal(429, "TooManyRequests"),
    "connection reset": flaky_store.reset,
    "body cut short": flaky_store.cut_short,
    "half the range": flaky_store.half_the_range,
}


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> Fault:
    return FAULTS[request.param]


def test_footers_and_fragments_are_read_when_the_outage_is_over(
    bucket: str, flaky: FlakyStore, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    put(f"{bucket}/a.parquet", content())
    flaky.faults = [fault] * 3
    fragment = plan(f"{bucket}/", QUICK, on_bad_file="quarantine").fragments[1]
    flaky.faults = [fault] * 3
    assert read(fragment, QUICK) == rows()["text"].to_pylist()[16:32]
    said = [r.message.partition(": ")[0] for r in caplog.records if r.name.startswith("optinfer")]
    assert said == [f"cannot read {bucket}/a.parquet"] * 2  # once for each read, however often it is tried


def test_an_outage_that_lasts_ends_the_job_and_blames_no_file(bucket: str, flaky: FlakyStore, fault: Fault) -> None:
    put(f"{bucket}/a.parquet", content())
    fragment = plan(f"{bucket}/").fragments[1]
    flaky.forever = fault
    for attempt in (
        lambda: read(fragment, IMPATIENT),
        lambda: plan(f"{bucket}/", IMPATIENT, on_bad_file="quarantine"),
    ):
        with pytest.raises(SourceError, match=r"cannot read .*check credentials, permissions, endpoint") as raised:
            attempt()
        assert not isinstance(raised.value, CorruptFileError)


def test_no_size_is_believed_that_the_version_does_not_have(bucket: str, flaky: FlakyStore) -> None:
    put(f"{bucket}/a.parquet", content())
    fragment = plan(f"{bucket}/").fragments[1]
    flaky.meets, flaky.faults = lambda method, *_: method == "HEAD", [flaky_store.cut_short] * 2  # of 0 bytes
    assert read(fragment, QUICK) == rows()["text"].to_pylist()[16:32]
    assert not flaky.faults
    flaky.forever = flaky_store.cut_short
    with pytest.raises(SourceError, match=r"cannot read .*: OSError: 0 bytes are told of a version that has \d+"):
        read(fragment, IMPATIENT)


@pytest.mark.parametrize("hangs", [flaky_store.never, flaky_store.a_byte_now_and_then])
def test_a_store_that_does_not_come_to_its_end_is_given_up(bucket: str, flaky: FlakyStore, hangs: Fault) -> None:
    put(f"{bucket}/a.parquet", content())
    fragment, hasty = plan(f"{bucket}/").fragments[1], replace(IMPATIENT, longest_try=0.5)
    flaky.forever = hangs
    with pytest.raises(SourceError, match=r"cannot read .*a\.parquet: TimeoutError: no answer within 0\.5 s"):
        read(fragment, hasty)
    with pytest.raises(SourceError, match=r"no answer within 0\.5 s"):
        plan(f"{bucket}/", hasty)


def test_a_byte_that_flips_on_the_way_is_fetched_again(bucket: str, flaky: FlakyStore) -> None:
    put(f"{bucket}/a.parquet", content(write_page_checksum=True))
    fragment = plan(f"{bucket}/").fragments[1]
    flaky.faults = [lambda *_: False, flaky_store.flipped_byte]  # the footer comes as it is
    assert read(fragment) == rows()["text"].to_pylist()[16:32]
    assert not flaky.faults


class FailingDisk(WatchedFile):
    """A file of which no byte comes, as of a disk that fails."""

    def __init__(self, url: str, error: OSError) -> None:
        super().__init__(pinned.opened(url), lambda *_: None)
        self._error = error

    def _fetch(self, start: int, stop: int) -> bytes:
        raise self._error


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), OSError(errno.ESTALE, "Stale handle")])
def test_a_disk_that_fails_is_no_bad_file(tmp_path: Path, error: OSError) -> None:
    (tmp_path / "a.parquet").write_bytes(content())
    fragment, failures = plan(tmp_path).fragments[1], [error, error]

    def sometimes(url: str) -> pinned.PinnedFile:
        return FailingDisk(url, failures.pop()) if failures else pinned.opened(url)

    assert read(fragment, replace(QUICK, opened=sometimes)) == rows()["text"].to_pylist()[16:32]
    assert not failures
    with pytest.raises(SourceError, match=r"cannot read .*a\.parquet: OSError") as raised:
        read(fragment, replace(IMPATIENT, opened=lambda url: FailingDisk(url, error)))
    assert not isinstance(raised.value, CorruptFileError)


def test_a_file_of_this_machine_that_may_not_be_read_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(content())

    def denied(url: str) -> pinned.PinnedFile:  # the tests may run as root, whom nothing is denied
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(SourceError, match=r"a\.parquet: PermissionError"):
        plan(tmp_path, Patience(opened=denied), on_bad_file="quarantine")


def damaged(data: bytes) -> bytes:
    """Return a file whose second row group's texts do not match their checksum."""
    meta = pq.read_metadata(pa.BufferReader(data))
    at = meta.row_group(1).column(1).data_page_offset + meta.row_group(1).column(1).total_compressed_size // 2
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def test_what_the_decoder_refuses_is_a_corrupt_file_and_only_those_rows(folder: str) -> None:
    put(f"{folder}/a.parquet", damaged(content(write_page_checksum=True)))
    fragments = plan(folder).fragments
    assert read(fragments[0]) == rows()["text"].to_pylist()[:16]
    with pytest.raises(CorruptFileError, match=r"cannot read rows 16-32: .*CRC.*on_bad_file: quarantine"):
        read(fragments[1])


@pytest.mark.parametrize("byte", range(0, 2900, 100))
def test_no_flipped_byte_gives_other_rows(tmp_path: Path, byte: int) -> None:
    """With page checksums, as many writers set them, a damaged file is right or refused, whichever byte it is."""
    data = bytearray(content(write_page_checksum=True))
    data[byte % len(data)] ^= 0x20
    (tmp_path / "a.parquet").write_bytes(bytes(data))
    try:
        found = [text for f in plan(tmp_path).fragments for text in read(f)]
    except (SourceError, ConfigError):  # of columns that are not there any more, say
        return
    assert found == rows()["text"].to_pylist()


DAMAGED_FOOTERS = """
import sys
from optinfer.data.footer import read_footer
from optinfer.data.pinned import opened

path = sys.argv[1]
whole = open(path, "rb").read()
start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
for at in range(start, len(whole)):
    for bits in (0x01, 0x20):
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([whole[at] ^ bits]))
        try:
            read_footer(opened(path), path, (), {"id", "text"})
        except Exception:
            pass
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(whole[at : at + 1])
print("alive")
"""


def test_no_damaged_footer_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(content(write_page_checksum=True))
    command = [sys.executable, "-c", DAMAGED_FOOTERS, str(tmp_path / "a.parquet")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.stdout == "alive\n", ended.stderr[-300:]
