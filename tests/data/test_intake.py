"""Files to rows: held against pyarrow's own readers of whole files, Pillow, and what the files hold."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from optinfer.data.intake import INTAKES, Asked, File, Piece, csv, images, jsonl, texts
from optinfer.errors import ConfigError
from tests.families.conftest import shipped


def file(path: Path, content: bytes | str) -> File:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return File(str(path), path.name)


def read(pieces: Iterator[Piece]) -> pa.Table:
    return pa.Table.from_batches([piece.rows for piece in pieces])


def read_csv(*files: File, block_bytes: int = 2**20, **asked: Any) -> pa.Table:
    """Return what is made of files that all can be read."""
    survey = csv.survey(files, Asked(**asked), block_bytes)
    assert not survey.bad, survey.bad
    table = read(csv.pieces(files, survey, Asked(**asked), block_bytes))
    assert table.num_rows == survey.rows
    return table


def read_jsonl(*files: File, block_bytes: int = 2**20) -> pa.Table:
    survey = jsonl.survey(files, Asked(), block_bytes)
    assert not survey.bad, survey.bad
    table = read(jsonl.pieces(files, survey, Asked(), block_bytes))
    assert table.num_rows == survey.rows
    return table


CSV = [shipped("matplotlib", "mpl-data", "sample_data", "msft.csv"), shipped("sklearn", "datasets", "data", "iris.csv")]


@pytest.mark.parametrize("path", CSV, ids=lambda path: path.name)
@pytest.mark.parametrize("block_bytes", [256, 2**20])
def test_csv_has_the_rows_and_types_that_pyarrow_gives_to_the_whole_file(path: Path, block_bytes: int) -> None:
    assert read_csv(File(str(path), path.name), block_bytes=block_bytes).equals(pa.csv.read_csv(path))


# What a block is taken for until another value comes: pyarrow's streaming reader ends there.
LATE = {"1": "0.5", "2": "none", "2026-11-25": "2026-11-25 10:00:00", "": "7", "true": "maybe", "3": ""}


@pytest.mark.parametrize(("first", "last"), LATE.items())
def test_a_value_that_comes_late_decides_the_type_as_in_the_whole_file(tmp_path: Path, first: str, last: str) -> None:
    late = file(tmp_path / "late.csv", "k,v\n" + f"a,{first}\n" * 200 + f"b,{last}\n")
    assert read_csv(late, block_bytes=128).equals(pa.csv.read_csv(late.url))


CELLS = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.floats(-100, 100).map(str),
    st.sampled_from(["", "NA", "true", "2026-01-02", "a b", 'say "x"', "two\nlines", "a,b;c"]),
)


@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=30), quoted=st.booleans())
def test_any_csv_is_as_pyarrow_reads_it_whole(tmp_path_factory: Any, rows: list[tuple[str, str]], quoted: bool) -> None:
    import csv as python_csv

    text = io.StringIO()
    writer = python_csv.writer(text, quoting=python_csv.QUOTE_ALL if quoted else python_csv.QUOTE_MINIMAL)
    writer.writerows([("left", "right"), *rows])
    found = file(tmp_path_factory.mktemp("any") / "any.csv", text.getvalue())
    whole = pa.csv.read_csv(found.url, parse_options=pa.csv.ParseOptions(newlines_in_values=True))
    assert read_csv(found, delimiter=",").equals(whole)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_out_and_said(tmp_path: Path, delimiter: str) -> None:
    rows = [("name", "price"), ("a", "1"), ("b", "2")]
    found = file(tmp_path / "t.csv", "".join(delimiter.join(row) + "\n" for row in rows))
    assert read_csv(found).to_pydict() == {"name": ["a", "b"], "price": [1, 2]}
    assert csv.survey([found], Asked()).said == (f"the delimiter is {csv._NAMES[delimiter]}",)


def test_a_comma_within_numbers_is_no_delimiter(tmp_path: Path) -> None:
    assert read_csv(file(tmp_path / "t.csv", "a;b\n1,5;2,5\n")).to_pydict() == {"a": ["1,5"], "b": ["2,5"]}


@pytest.mark.parametrize("text", ["a,b;c\n1,2;3\n4,5;6\n", "a,b\n1,2,3\n4\n"])
def test_a_delimiter_that_cannot_be_told_is_asked_for(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"t\.csv: its delimiter cannot be told.*say --delimiter"):
        csv.survey([file(tmp_path / "t.csv", text)], Asked())


def test_files_of_two_delimiters_are_two_tables(tmp_path: Path) -> None:
    one, other = file(tmp_path / "a.csv", "x,y\n1,2\n"), file(tmp_path / "b.csv", "x;y\n1;2\n")
    with pytest.raises(ConfigError, match=r"by a comma.*by a semicolon; make a table of each"):
        csv.survey([one, other], Asked())


def test_an_empty_line_of_one_column_is_a_row(tmp_path: Path) -> None:
    found = file(tmp_path / "t.csv", "v\n1\n\n3\n")
    assert read_csv(found).to_pydict() == {"v": [1, None, 3]}
    assert csv.survey([found], Asked()).said == ("there is one column: no delimiter is in the header",)


def test_encoding_and_quote_are_as_they_are_said(tmp_path: Path) -> None:
    found = file(tmp_path / "t.csv", "n;m\n'Zürich; Bern';'1'\n".encode("cp1252"))
    assert read_csv(found, encoding="cp1252", quote="'").to_pydict() == {"n": ["Zürich; Bern"], "m": [1]}
    assert "it is no CSV in UTF-8" in csv.survey([found], Asked(quote="'")).bad[0][1]


def test_a_late_byte_of_another_encoding_is_no_text_of_the_table(tmp_path: Path) -> None:
    found = file(tmp_path / "t.csv", b"n,m\n" + b"a,b\n" * 40_000 + b"\xff,c\n")
    ((_, reason),) = csv.survey([found], Asked()).bad
    assert "it is no CSV in UTF-8 delimited by a comma" in reason


BAD_CSV = {
    "nothing": (b"", "it is empty"),
    "more fields": (b"a,b\n1,2\n1,2,3\n" * 9, "Expected 2 columns, got 3"),
    "twice": (b"a,a\n1,2\n", "the column 'a' twice"),
    "other columns": (b"x,z\n1,2\n", "its columns are not those of"),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_a_bad_csv_file_is_named_and_the_others_are_read(tmp_path: Path, name: str) -> None:
    content, says = BAD_CSV[name]
    good, bad = file(tmp_path / "a.csv", "x,y\n1,2\n"), file(tmp_path / "b.csv", content)
    survey = csv.survey([good, bad], Asked(delimiter=","))
    ((which, reason),) = survey.bad
    assert (which, survey.rows) == (bad, 1)
    assert says in reason


def test_columns_in_another_order_are_the_same_columns(tmp_path: Path) -> None:
    files = file(tmp_path / "a.csv", "x,y\n1,a\n"), file(tmp_path / "b.csv", "y,x\nb,2.5\n")
    assert read_csv(*files).to_pydict() == {"x": [1.0, 2.5], "y": ["a", "b"]}


def test_compressed_files_are_read(tmp_path: Path) -> None:
    import gzip

    assert read_csv(file(tmp_path / "t.csv.gz", gzip.compress(b"a,b\n1,2\n"))).to_pydict() == {"a": [1], "b": [2]}
    assert read_jsonl(file(tmp_path / "t.jsonl.gz", gzip.compress(b'{"a": 1}\n'))).to_pydict() == {"a": [1]}


@pytest.mark.parametrize("block_bytes", [64, 2**20])
def test_json_lines_have_the_rows_and_types_that_pyarrow_gives_to_the_whole_file(
    tmp_path: Path, block_bytes: int
) -> None:
    rows: list[dict[str, Any]] = [{"n": i, "t": "ü" * (i % 7), "l": [i, None], "s": {"x": i}} for i in range(40)]
    rows += [{"n": 0.5, "late": True}, {"t": None, "s": {"x": 1, "y": "b"}}]
    found = file(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    whole = pa.json.read_json(found.url, read_options=pa.json.ReadOptions(block_size=2**24))
    assert read_jsonl(found, block_bytes=block_bytes).equals(whole)


def test_a_text_that_looks_like_a_time_stays_a_text_where_others_do_not(tmp_path: Path) -> None:
    lines = '{"v": "2026-11-25T10:00:00"}\n' * 20 + '{"v": "soon"}\n'
    found = read_jsonl(file(tmp_path / "t.jsonl", lines), block_bytes=64)
    assert found["v"].to_pylist() == ["2026-11-25T10:00:00"] * 20 + ["soon"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b'{"a": 1}\n{"a": ', "it is no JSON lines"),
        (b'{"a": 1}\n{"a": "x"}\n', "it is no JSON lines"),
        (b'{"a": "\xff"}\n', "it is no JSON lines in UTF-8"),
        (b'{"x": "text"}\n', "no type holds both"),
    ],
)
def test_a_bad_json_lines_file_is_named_and_the_others_are_read(tmp_path: Path, content: bytes, says: str) -> None:
    good, bad = file(tmp_path / "a.jsonl", '{"x": 1}\n'), file(tmp_path / "b.jsonl", content)
    survey = jsonl.survey([good, bad], Asked())
    ((which, reason),) = survey.bad
    assert (which, survey.rows) == (bad, 1)
    assert says in reason


def image(path: Path, values: np.ndarray[Any, Any]) -> File:
    Image.fromarray(values).save(path)
    return File(str(path), path.name)


WIDE = np.linspace(0, 60_000, 64).reshape(8, 8)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("x-ray.png", WIDE.astype(np.uint16), "16-bit pixels from 0 to 60000"),
        ("depth.tif", WIDE.astype(np.float32), "float pixels from 0 to 60000"),
        ("counts.tif", WIDE.astype(np.int32), "32-bit pixels from 0 to 60000"),
    ],
)
def test_images_whose_values_are_no_bytes_are_refused_or_scaled_as_said(
    tmp_path: Path, name: str, values: np.ndarray[Any, Any], says: str
) -> None:
    files = [image(tmp_path / name, values)]

    def piece(pixel_range: tuple[float, float] | None) -> Piece:
        asked = Asked(pixel_range=pixel_range)
        (found,) = images.pieces(files, images.survey(files, asked), asked)
        return found

    assert says in piece(None).reason
    assert "--pixel-range LOW HIGH" in piece(None).reason
    assert "is not within --pixel-range 0 50000" in piece((0, 50_000)).reason
    rows = piece((0, 65_535)).rows
    assert rows is not None
    seen = np.asarray(Image.open(io.BytesIO(rows["image"][0].as_py())).convert("RGB"))  # as a model's family opens it
    np.testing.assert_allclose(seen, np.repeat(WIDE[..., None] / 65_535 * 255, 3, axis=2), atol=0.51)


def test_a_float_that_is_no_number_is_in_no_range(tmp_path: Path) -> None:
    asked = Asked(pixel_range=(0, 1))
    files = [image(tmp_path / "nan.tif", np.array([[0.5, np.nan]], dtype=np.float32))]
    (piece,) = images.pieces(files, images.survey(files, asked), asked)
    assert "is not within --pixel-range 0 1" in piece.reason


@pytest.mark.parametrize("name", ["rocket.jpg", "coffee.png"])
def test_an_image_that_is_cut_short_is_told_from_a_whole_one(tmp_path: Path, name: str) -> None:
    data = shipped("skimage", "data", name).read_bytes()
    files = [file(tmp_path / name, data), file(tmp_path / f"short-{name}", data[: len(data) * 2 // 3])]
    whole, short = images.pieces(files, images.survey(files, Asked()), Asked())
    assert whole.rows is not None
    assert whole.rows["image"][0].as_py() == data
    assert "it cannot be decoded: OSError" in short.reason


def test_a_file_of_several_images_is_said(tmp_path: Path) -> None:
    found = file(tmp_path / "moving.gif", shipped("skimage", "data", "no_time_for_that_tiny.gif").read_bytes())
    (piece,) = images.pieces([found], images.survey([found], Asked()), Asked())
    assert piece.said == "moving.gif holds several images, of which a model sees the first"


def test_texts_are_decoded_strictly(tmp_path: Path) -> None:
    files = [
        file(tmp_path / "a.txt", "Grüße\r\n"), file(tmp_path / "b.txt", "\ufeffwith a mark"),
        file(tmp_path / "c.txt", "Grüße".encode("cp1252")), File(str(tmp_path / "gone.txt"), "gone.txt"),
    ]  # fmt: skip
    plain, marked, other, gone = texts.pieces(files, texts.survey(files, Asked()), Asked())
    assert [p.rows["text"].to_pylist() for p in (plain, marked) if p.rows] == [["Grüße\r\n"], ["with a mark"]]
    assert "it is no UTF-8 text (invalid start byte at byte 2); say --encoding" in other.reason
    assert gone.reason == "No such file or directory"
    said = Asked(encoding="cp1252")
    (piece,) = texts.pieces(files[2:3], texts.survey(files, said), said)
    assert piece.rows is not None
    assert piece.rows["text"].to_pylist() == ["Grüße"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"encoding": "utf-9"}, "there is no such encoding"),
        ({"delimiter": "::"}, "give one ASCII character"),
        ({"quote": ""}, "give one ASCII character"),
        ({"pixel_range": (1.0, 1.0)}, "LOW has to be below HIGH"),
    ],
)
def test_what_no_file_can_be_read_with_is_refused(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Asked(**asked)


@pytest.mark.parametrize("name", INTAKES.names())
def test_suffixes_tell_kinds_apart(name: str) -> None:
    others = {suffix for other in INTAKES.names() if other != name for suffix in INTAKES.get(other).suffixes}
    assert not others & set(INTAKES.get(name).suffixes)
