"""What reading a fragment asks of the storage: the ranges it needs, and a file's footer once."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.fragments import Fragment
from optinfer.data.reading import FragmentReader
from tests.data.watched import Watch

GROUPS, GROUP_ROWS = 64, 256


def texts(rows: int, word: str = "word") -> pa.Table:
    return pa.table({"text": [f"{word} {i} " * 20 for i in range(rows)], "other": [f"{i}" * 50 for i in range(rows)]})


def write(path: Path, table: pa.Table) -> str:
    pq.write_table(table, path, row_group_size=GROUP_ROWS, compression="none", use_dictionary=False)
    return str(path)


def group(path: str, index: int) -> Fragment:
    return Fragment(index, path, index * GROUP_ROWS, (index + 1) * GROUP_ROWS)


def footers(watch: Watch, size: int) -> list[bool]:
    """Tell, for every file that was opened, whether its footer was read: its last bytes."""
    return [any(stop == size for _, stop in ranges) for ranges in watch.files]


def test_a_files_footer_is_read_once(tmp_path: Path) -> None:
    watch = Watch()
    path, reader = write(tmp_path / "a.parquet", texts(4 * GROUP_ROWS)), FragmentReader(["text"], watch.patience)
    found = [reader.read(group(path, index)).column("text")[0].as_py() for index in range(4)]
    assert found == [f"word {index * GROUP_ROWS} " * 20 for index in range(4)]
    assert footers(watch, os.path.getsize(path)) == [True, False, False, False]


def test_the_footer_of_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    watch = Watch()
    path, reader = write(tmp_path / "a.parquet", texts(2 * GROUP_ROWS)), FragmentReader(["text"], watch.patience)
    reader.read(group(path, 0))
    write(tmp_path / "a.parquet", texts(2 * GROUP_ROWS, word="another"))
    assert reader.read(group(path, 1)).column("text")[0].as_py().startswith("another 256 ")
    assert footers(watch, os.path.getsize(path))[1]


def test_a_fragment_reaches_into_the_row_groups_it_lies_in(tmp_path: Path) -> None:
    path, reader = write(tmp_path / "a.parquet", texts(4 * GROUP_ROWS)), FragmentReader(["text"])
    read = reader.read(Fragment(0, path, GROUP_ROWS - 2, 2 * GROUP_ROWS + 3))
    assert read.column("text").to_pylist() == texts(4 * GROUP_ROWS).column("text").to_pylist()[254:515]


def test_of_a_file_on_s3_only_the_needed_ranges_are_fetched(tmp_path: Path, bucket: str) -> None:
    import s3fs

    file = write(tmp_path / "a.parquet", texts(GROUPS * GROUP_ROWS))
    s3fs.S3FileSystem().put(file, f"{bucket}/a.parquet")
    watch = Watch()
    size, reader = Path(file).stat().st_size, FragmentReader(["text"], watch.patience)
    for index in range(2):
        reader.read(group(f"{bucket}/a.parquet", index))
    assert 0 < watch.fetched[1] < 1.1 * size / GROUPS
