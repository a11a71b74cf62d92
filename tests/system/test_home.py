"""The home folder: where it is, what a place that cannot be written to says, and damaged files count as none."""

from __future__ import annotations

import json
import logging
import pwd
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from optinfer.errors import ConfigError, OptinferError
from optinfer.system import home
from optinfer.system.contents import listed

DAMAGES = {"empty": b"", "garbage": b"{g\xff", "a list": b"[]", "another object": b"{}", "cut short": b'{"seconds": 1'}


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file of this process grow, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def nobody(_: int) -> None:
    raise KeyError("getpwuid(): uid not found")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTINFER_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(ConfigError, match=r"no folder for optinfer's own files: .*; set OPTINFER_HOME"):
        home.home()


def test_a_home_of_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTINFER_HOME", "~no-such-user-here/x")
    with pytest.raises(ConfigError, match="set OPTINFER_HOME to the full path"):
        home.home()


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_home_that_cannot_be_written_to_is_refused(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / place))
    with pytest.raises(OptinferError, match=r"cannot write .*; free or repair the place, or set OPTINFER_HOME"):
        home.require_writable()


def test_a_full_disk_is_said_and_leaves_no_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path))
    with full_disk():
        with pytest.raises(OptinferError, match=rf"cannot write {tmp_path}: File too large"):
            home.require_writable()
        with pytest.raises(OptinferError, match=r"cannot write .*record: File too large"):
            home.put(tmp_path / "record", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_with_too_little_room_is_refused_before_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path))
    home.require_space(shutil.disk_usage(tmp_path).free // 2)
    with pytest.raises(OptinferError, match=r"MB free, [\d,]+ MB are needed"):
        home.require_space(shutil.disk_usage(tmp_path).total + 1)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_counts_as_none_and_is_said(
    damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(damage)
    assert home.read_json(path, lambda raw: float(raw["seconds"])) is None
    assert f"{path} is damaged" in caplog.text


def test_a_record_that_is_not_there_is_not_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert home.read_json(tmp_path / "none.json", float) is None
    (tmp_path / "one.json").write_text("1.5")
    assert home.read_json(tmp_path / "one.json", float) == 1.5
    assert caplog.text == ""


def test_a_folder_in_the_way_of_a_record_counts_as_damage(tmp_path: Path) -> None:
    assert home.read_json(tmp_path, float) is None


@pytest.mark.parametrize("damage", ["deleted", "cut", "emptied", "all"])
def test_a_cached_folder_that_lost_files_is_not_whole(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    assert not home.is_whole(folder)
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "weights").write_bytes(b"1234")
    (folder / "config.json").write_bytes(b"{}")
    home.note_files(folder, listed(folder))
    assert home.is_whole(folder)
    assert caplog.text == ""
    match damage:
        case "deleted":
            (folder / "deep" / "weights").unlink()
        case "cut":
            (folder / "deep" / "weights").write_bytes(b"12")
        case "emptied":
            (folder / "config.json").write_bytes(b"")
        case "all":
            shutil.rmtree(folder / "deep")
            (folder / "config.json").unlink()
    assert not home.is_whole(folder)
    assert f"{folder} is damaged" in caplog.text


def test_a_folder_of_an_older_version_is_taken_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").touch()
    assert home.is_whole(folder)
    home.put(tmp_path / "model.files.json", json.dumps([1]).encode())  # and so is one whose note is damaged
    with caplog.at_level(logging.WARNING):
        assert home.is_whole(folder)
    assert "model.files.json is damaged" in caplog.text
