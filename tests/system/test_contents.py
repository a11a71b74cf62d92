"""Files by what they hold: held against other tools' digests, and seen to change however small the change is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from optinfer.system.contents import as_plain, digest, from_plain, listed

LONG_AGO = 1_000_000_000


def sha256sum(path: Path) -> str:
    return subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]


def test_a_digest_is_that_of_sha256sum(sample_table: Path) -> None:
    assert digest(sample_table) == sha256sum(sample_table)


def test_a_byte_that_is_written_within_a_tick_of_the_clock_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    for i in range(256):
        file.write_bytes(bytes([i]))
        before = digest(file)
        file.write_bytes(bytes([i ^ 1]))
        assert digest(file) != before


def test_a_byte_that_is_written_under_the_old_time_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"before")
    os.utime(file, (LONG_AGO, LONG_AGO))
    before = digest(file)
    with open(file, "rb+") as same:
        same.write(b"B")
    os.utime(file, (LONG_AGO, LONG_AGO))
    assert digest(file) != before


def test_a_listing_goes_through_json_and_names_of_before_have_sizes(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"123")
    found = listed(tmp_path)
    assert [(file.name, file.size) for file in found] == [("a/b/c", 3)]
    assert from_plain(as_plain(found)) == found
    (old,) = from_plain({"a/b/c": 3})
    assert old.is_at(tmp_path / "a/b/c")
    assert not old.is_at(tmp_path / "a/b/d")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x"])
def test_names_that_lead_out_of_a_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="leads out"):
        from_plain({name: 1})
