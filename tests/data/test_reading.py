"""What reading a fragment asks of the storage: the ranges it needs, and a file's footer once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.data.fragments import Fragment
from optinfer.data.reading import FragmentReader

GROUPS, GROUP_ROWS = 64, 256


def texts(rows: int, word: str = "word") -> pa.Table:
    return pa.table({"text": [f"{word} {i} " * 20 for i in range(rows)], "other": [f"{i}" * 50 for i in range(rows)]})


def write(path: Path, table: pa.Table) -> str:
    pq.write_table(table, path, row_group_size=GROUP_ROWS, compression="none", use_dictionary=False)
    return str(path)


def group(path: str, index: int) -> Fragment:
    return Fragment(index, path, index * GROUP_ROWS, (index + 1) * GROUP_ROWS)


@pytest.fixture
def footers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Collect, for every file that is opened, whether its footer is read."""
    read: list[bool] = []
    opened = pq.ParquetFile.__init__

    def spy(self: Any, *arguments: Any, metadata: Any = None, **options: Any) -> None:
        read.append(metadata is None)
        opened(self, *arguments, metadata=metadata, **options)

    monkeypatch.setattr(pq.ParquetFile, "__init__", spy)
    return read


def test_a_files_footer_is_read_once(tmp_path: Path, footers: list[bool]) -> None:
    path, reader = write(tmp_path / "a.parquet", texts(4 * GROUP_ROWS)), FragmentReader(["text"])
    found = [reader.read(group(path, index)).column("text")[0].as_py() for index in range(4)]
    assert found == [f"word {index * GROUP_ROWS} " * 20 for index in range(4)]
    assert footers == [True, False, False, False]


def test_the_footer_of_a_file_that_was_replaced_is_read_again(tmp_path: Path, footers: list[bool]) -> None:
    path, reader = write(tmp_path / "a.parquet", texts(2 * GROUP_ROWS)), FragmentReader(["text"])
    reader.read(group(path, 0))
    write(tmp_path / "a.parquet", texts(2 * GROUP_ROWS, word="another"))
    assert reader.read(group(path, 1)).column("text")[0].as_py().startswith("another 256 ")
    assert footers == [True, True]


def test_a_fragment_reaches_into_the_row_groups_it_lies_in(tmp_path: Path) -> None:
    path, reader = write(tmp_path / "a.parquet", texts(4 * GROUP_ROWS)), FragmentReader(["text"])
    read = reader.read(Fragment(0, path, GROUP_ROWS - 2, 2 * GROUP_ROWS + 3))
    assert read.column("text").to_pylist() == texts(4 * GROUP_ROWS).column("text").to_pylist()[254:515]


def test_of_a_file_on_s3_only_the_needed_ranges_are_fetched(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    file = write(tmp_path / "a.parquet", texts(GROUPS * GROUP_ROWS))
    s3fs.S3FileSystem().put(file, f"{bucket}/a.parquet")
    fetched: list[int] = []
    fetch = s3fs.core.S3File._fetch_range

    def spy(self: Any, start: int, end: int) -> bytes:
        fetched.append(end - start)
        return fetch(self, start, end)

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", spy)
    size, reader = Path(file).stat().st_size, FragmentReader(["text"])
    reader.read(group(f"{bucket}/a.parquet", 0))
    fetched.clear()
    reader.read(group(f"{bucket}/a.parquet", 1))
    assert sum(fetched) < 1.1 * size / GROUPS
