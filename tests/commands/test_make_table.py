"""Folders of photos, texts, CSV and JSON lines become tables: every file accounted for, nothing overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from optinfer.commands.make_table import Wanted, make_table
from optinfer.config import SourceConfig
from optinfer.data.intake import Asked
from optinfer.data.sources import SOURCES
from optinfer.errors import ConfigError, SourceError
from tests.conftest import RunCli, everything_under
from tests.families.conftest import shipped

PHOTOS = {"cats/chelsea.png", "things/coffee.png", "things/rocket.jpg"}


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """Write three photos into two folders."""
    for name in PHOTOS:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(shipped("skimage", "data", name.rpartition("/")[2]).read_bytes())
    return tmp_path / "photos"


@pytest.fixture
def texts(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes texts, by name, and returns their folder."""

    def write(**files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / "texts" / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".txt").write_text(text)
        return tmp_path / "texts"

    return write


def test_photos_have_ids_labels_and_their_own_bytes(photo_folder: Path, tmp_path: Path, run_cli: RunCli) -> None:
    code, out, err = run_cli("table", photo_folder, "-o", tmp_path / "t.parquet", "--json")
    record, rows = json.loads(out), pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert (code, record["kind"], record["rows"], record["files"]) == (0, "images", 3, 3), err
    assert record["labels"] == {"cats": 1, "things": 2}
    assert [row["id"] for row in rows] == sorted(PHOTOS)
    assert {row["id"]: row["label"] for row in rows} == {name: name.partition("/")[0] for name in PHOTOS}
    assert {row["id"]: row["image"] for row in rows} == {n: (photo_folder / n).read_bytes() for n in PHOTOS}


def test_the_same_files_give_the_same_table(photo_folder: Path, tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        make_table(str(photo_folder), str(tmp_path / name))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_paths_lead_to_the_photos(photo_folder: Path, tmp_path: Path) -> None:
    make_table(str(photo_folder), str(tmp_path / "t.parquet"), Wanted(asked=Asked(paths=True)))
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert [Path(row["image"]) for row in rows] == [photo_folder / row["id"] for row in rows]


def test_a_photo_that_is_cut_short_is_named_and_nothing_is_written(
    photo_folder: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    coffee = photo_folder / "things" / "coffee.png"
    coffee.write_bytes(coffee.read_bytes()[:9_000])
    (photo_folder / "things" / "empty.jpg").touch()
    before = everything_under(tmp_path)
    code, out, err = run_cli("table", photo_folder, "-o", tmp_path / "t.parquet")
    assert (code, out) == (1, "")
    assert "2 of the files cannot be read, no table is written" in err
    assert "things/coffee.png: it cannot be decoded" in err
    assert "things/empty.jpg: it is no image that Pillow knows, or it is empty" in err
    assert everything_under(tmp_path) == before, "nothing half-written is left"


def test_bad_files_are_left_out_where_that_is_asked_for_and_named(
    photo_folder: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    (photo_folder / "things" / "empty.jpg").touch()
    options = ("--on-bad-file", "quarantine", "--json")
    code, out, err = run_cli("table", photo_folder, "-o", tmp_path / "t.parquet", *options)
    record = json.loads(out)
    assert (code, record["rows"], record["files"]) == (0, 3, 3)
    assert [bad["file"] for bad in record["bad_files"]] == ["things/empty.jpg"]
    assert "cannot be read, left out: things/empty.jpg" in err


def test_files_of_other_kinds_are_asked_for_and_then_named(photo_folder: Path, tmp_path: Path, run_cli: RunCli) -> None:
    (photo_folder / "cats" / "about.txt").write_text("a cat")
    (photo_folder / "cats" / ".hidden.png").touch()
    code, _, err = run_cli("table", photo_folder, "-o", tmp_path / "t.parquet")
    assert (code, "holds 3 images, 1 texts; say which become rows: --kind" in err) == (2, True), err
    code, out, err = run_cli("table", photo_folder, "-o", tmp_path / "t.parquet", "--kind", "images", "--json")
    assert (code, json.loads(out)["rows"]) == (0, 3)
    assert {one["file"] for one in json.loads(out)["left_out"]} == {"cats/about.txt", "cats/.hidden.png"}
    assert "left out: cats/about.txt: its suffix is of another kind" in err


def test_nothing_is_overwritten_and_no_file_read_for_nothing(tmp_path: Path, run_cli: RunCli) -> None:
    (tmp_path / "t.parquet").write_text("mine")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    code, _, err = run_cli("table", tmp_path / "a.csv", "-o", tmp_path / "t.parquet")
    assert (code, "exists, and nothing is overwritten" in err, "delimiter" in err) == (2, True, False)
    assert (tmp_path / "t.parquet").read_text() == "mine"


def test_nothing_is_overwritten_that_came_while_the_table_was_made(tmp_path: Path) -> None:
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n")
    late = tmp_path / "t.parquet"

    def somebody_else(line: str) -> None:
        late.write_text("theirs")

    with pytest.raises(ConfigError, match="exists, and nothing is overwritten"):
        make_table(str(tmp_path / "numbers.csv"), str(late), say=somebody_else)
    assert late.read_text() == "theirs"
    assert everything_under(tmp_path) == ["numbers.csv", "t.parquet"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [("parent", ["news", "sport"]), ("top", ["en", "en"]), ("none", None)],
)
def test_labels_of_deeper_folders_are_asked_for(
    texts: Callable[..., Path], tmp_path: Path, labels: str, expected: list[str] | None
) -> None:
    folder = texts(en__news__a="x", en__sport__b="y")
    with pytest.raises(ConfigError, match="say --labels parent, top or none"):
        make_table(str(folder), str(tmp_path / "t.parquet"))
    make_table(str(folder), str(tmp_path / "t.parquet"), Wanted(labels=labels))  # type: ignore[arg-type]
    table = pq.read_table(tmp_path / "t.parquet")
    assert (table["label"].to_pylist() if "label" in table.column_names else None) == expected


def test_a_file_outside_of_all_labels_is_named(texts: Callable[..., Path], tmp_path: Path) -> None:
    folder = texts(news__a="x", b="y")
    with pytest.raises(ConfigError, match=r"b\.txt lies in no folder that could be its label"):
        make_table(str(folder), str(tmp_path / "t.parquet"), Wanted(labels="parent"))


def test_rows_of_csv_files_are_numbered_unless_they_have_an_id(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.csv").write_text("x,y\n1,2\n3,4\n")
    (tmp_path / "f" / "b.csv").write_text("y,x\n5,6.5\n")
    make_table(str(tmp_path / "f"), str(tmp_path / "t.parquet"))
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == [
        {"id": "a.csv#0", "x": 1.0, "y": 2}, {"id": "a.csv#1", "x": 3.0, "y": 4}, {"id": "b.csv#0", "x": 6.5, "y": 5},
    ]  # fmt: skip
    (tmp_path / "own.csv").write_text("id,y\nu,2\n")
    make_table(str(tmp_path / "own.csv"), str(tmp_path / "own.parquet"))
    assert pq.read_table(tmp_path / "own.parquet").to_pylist() == [{"id": "u", "y": 2}]


def test_what_was_found_out_is_said(tmp_path: Path, run_cli: RunCli) -> None:
    (tmp_path / "a.csv").write_text("x;y\n1;2\n")
    code, out, err = run_cli("table", tmp_path / "a.csv", "-o", tmp_path / "t.parquet")
    assert (code, "the delimiter is a semicolon" in err) == (0, True)
    assert "1 rows of 1 files (csv)" in out


def test_row_groups_are_no_larger_than_a_fragment_wants_them(tmp_path: Path) -> None:
    """A fragment reads whole row groups: one of all rows would be read again for each."""
    (tmp_path / "t.jsonl").write_text("".join(f'{{"n": {n}, "text": "{"x" * 6_000}"}}\n' for n in range(20_000)))
    record = make_table(str(tmp_path / "t.jsonl"), str(tmp_path / "t.parquet"))
    meta = pq.read_metadata(tmp_path / "t.parquet")
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    assert (record.rows, record.row_groups, sum(group.num_rows for group in groups)) == (20_000, len(groups), 20_000)
    assert max(group.num_rows for group in groups) <= 8192
    table = pq.ParquetFile(tmp_path / "t.parquet")
    assert max(table.read_row_group(i).nbytes for i in range(len(groups))) <= 33e6
    plan = SOURCES.get("parquet").plan(SourceConfig(path=str(tmp_path / "t.parquet")), ["text"], 1024)
    assert plan.rows == 20_000


@pytest.mark.parametrize(
    ("files", "options", "says", "code"),
    [
        ({"a.txt": "x"}, ("--delimiter", ";"), "--delimiter has no use with texts", 2),
        ({"a.csv": "a,b\n1,2\n"}, ("--paths",), "--paths has no use with csv", 2),
        ({"a.png": ""}, ("--paths", "--pixel-range", "0", "1"), "keep one of the two", 2),
        ({"a.csv": "id,label\n1,2\n"}, ("--labels", "parent"), "lies in no folder", 2),
        ({"b/a.csv": "id,label\n1,2\n"}, ("--labels", "parent"), "a column 'label' of their own", 2),
        ({"a.xyz": "x"}, ("--kind", "images"), "has no files of the kind images", 2),
        ({"a.txt": "x"}, ("--kind", "text"), "did you mean 'texts'?", 2),
        ({"_a.txt": "x"}, (), "holds no file", 2),
        ({"a.txt": "x"}, ("-o", "t.csv"), "a job reads files that end in", 2),
        ({"a.txt": "x"}, ("-o", "s3://bucket/t.parquet"), "a table is written on this machine", 2),
        ({"a.csv": "a,b\n"}, (), "no file gives a row", 1),
        ({"a.txt": "x"}, ("--encoding", "utf-9"), "there is no such encoding", 2),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    tmp_path: Path, run_cli: RunCli, files: dict[str, str], options: tuple[str, ...], says: str, code: int
) -> None:
    for name, text in files.items():
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_text(text)
    found, out, err = run_cli("table", tmp_path / "f", "-o", tmp_path / "t.parquet", *options)
    assert (found, out) == (code, "")
    assert says in err, err
    assert not (tmp_path / "t.parquet").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        make_table(str(tmp_path / "nowhere"), str(tmp_path / "t.parquet"))


def test_a_file_that_changes_between_the_two_looks_at_it_ends_without_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n")

    def changed(line: str) -> None:
        path.write_text("a,b\n1,2\n3,4\n")

    with pytest.raises(SourceError, match="2 rows were read, 1 a moment ago"):
        make_table(str(path), str(tmp_path / "t.parquet"), say=changed)
    assert everything_under(tmp_path) == ["a.csv"]


def test_a_folder_of_a_store_is_read_as_one_here(bucket: str, tmp_path: Path) -> None:
    import fsspec

    for name in ("news/a.txt", "sport/b.txt"):
        with fsspec.open(f"{bucket}/texts/{name}", "w") as file:
            file.write(f"about {name}")
    make_table(f"{bucket}/texts", str(tmp_path / "t.parquet"))
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == [
        {"id": "news/a.txt", "label": "news", "text": "about news/a.txt"},
        {"id": "sport/b.txt", "label": "sport", "text": "about sport/b.txt"},
    ]
