"""Where a job reads and where it writes are apart, whatever their paths look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from optinfer.data.places import require_apart
from optinfer.errors import ConfigError


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in/deep").mkdir(parents=True)
    Path("in/t.parquet").touch()
    Path("link").symlink_to("in")
    Path("apart").mkdir()


@pytest.mark.parametrize(
    ("source", "sink"),
    [
        ("in", "in/out"),
        ("in", "link/out"),
        ("link", "in/out"),
        ("in", "./in/../in/out"),
        ("in/../in", "in/out"),
        ("in/", "in/out/"),
        ("apart/../link", "in/a/b"),
        ("in/**/*.parquet", "in/out"),
        ("in/*/*.parquet", "link/out"),
        ("link/*.parquet", "in"),
        ("file://in", "in/out"),
        ("s3://bucket/in", "s3://bucket/in/out"),
        ("s3://bucket/in/", "s3://bucket/in/out/"),
        ("s3://bucket", "s3://bucket/out"),
    ],
)
def test_a_sink_whose_parts_the_source_takes_in_is_refused(source: str, sink: str) -> None:
    with pytest.raises(ConfigError, match=r"lies inside source\.path"):
        require_apart(source, sink)


@pytest.mark.parametrize(
    ("source", "sink"),
    [
        ("in/deep", "in"),
        ("link/deep", "in"),
        ("in/deep/*.parquet", "in"),
        ("s3://b/a/b", "s3://b/a"),
    ],
)
def test_a_source_inside_the_sink_is_refused(source: str, sink: str) -> None:
    with pytest.raises(ConfigError, match=r"lies inside sink\.path"):
        require_apart(source, sink)


@pytest.mark.parametrize(
    ("source", "sink"), [("in", "in"), ("in", "link"), ("in", "in/deep/.."), ("s3://b/a", "s3://b/a/")]
)
def test_one_place_for_both_is_refused(source: str, sink: str) -> None:
    with pytest.raises(ConfigError, match=r"is source\.path itself"):
        require_apart(source, sink)


@pytest.mark.parametrize("url", ["s3://", "s3:///", "://x"[:3]])
def test_a_url_without_a_bucket_is_no_place(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sink\.path .* names no bucket"):
        require_apart("in", url)
    with pytest.raises(ConfigError, match=r"source\.path .* names no bucket"):
        require_apart(url, "apart")


def test_the_memory_of_a_process_is_no_sink() -> None:
    with pytest.raises(ConfigError, match="memory of one process"):
        require_apart("in", "memory://out")


@pytest.mark.parametrize(
    ("source", "sink"),
    [
        ("in", "apart"),
        ("in", "in2"),
        ("in", "inside"),
        ("in/t.parquet", "in/out"),
        ("in/t.parquet", "in"),  # refused later, for what the folder holds
        ("in/*.parquet", "in/out"),
        ("s3://bucket/in", "s3://bucket/in2"),
        ("s3://bucket/in", "in"),
        ("in/[t].parquet", "in/out"),
    ],
)
def test_places_that_are_apart_are_taken(source: str, sink: str) -> None:
    require_apart(source, sink)
