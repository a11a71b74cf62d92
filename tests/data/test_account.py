"""What is committed, told without opening each part: the listing decides, accounts are a shortcut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from optinfer.data.account import Accounts, index_of
from optinfer.data.fragments import Fragment, Plan
from optinfer.data.output import Output
from optinfer.records.part import Part
from tests.conftest import everything_under, fragments
from tests.data.committing import lying, put
from tests.data.flaky_store import FlakyStore

ROWS = 3
PLAN = Plan(files=(), fragments=fragments(*((ROWS * i, ROWS * i + ROWS) for i in range(5))), schema=pa.schema([]))


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(str(tmp_path / "out"))


def accounts(output: Output, fingerprint: str = "f1") -> Accounts:
    return Accounts(output.folder, fingerprint)


def commit(output: Output, *indices: int, artifact: str = "a1") -> None:
    """Commit fragments of `ROWS` rows, one of them quarantined."""
    for i in indices:
        kept, bad = pa.table({"id": ["x"] * (ROWS - 1)}), pa.table({"id": ["y"], "_row": [ROWS - 1]})
        put(output, f"part-{i:06d}.parquet", Fragment(i, "t", 0, ROWS), "f1", artifact, kept, bad)


def count(output: Output, kept: Accounts, *indices: int, artifact: str = "a1") -> None:
    for i in indices:
        part = lying(output, f"part-{i:06d}.parquet") or Part(fragment=i, bytes=1)
        kept.add(replace(part, artifact=artifact, rows_in=ROWS, rows_out=ROWS - 1, rows_quarantined=1))
    kept.flush()


def part(fragment: int, rows_out: int, artifact: str = "a1", **more: Any) -> Part:
    rows_in = rows_out + more.get("rows_quarantined", 0)
    return Part(fragment=fragment, artifact=artifact, rows_in=rows_in, rows_out=rows_out, **more)


def garble(output: Output, *indices: int) -> None:
    """Write zeros over parts: whoever opens one finds that it is none."""
    for name in (f"part-{i:06d}.parquet" for i in indices):
        output.folder.put(name, bytes(len(output.folder.read(name) or b"")))
        assert lying(output, name) is None


def test_parts_in_an_account_are_not_opened(output: Output) -> None:
    commit(output, 1, 4)
    count(output, accounts(output), 1, 4)
    garble(output, 1, 4)
    found = output.resume(accounts(output), PLAN)
    assert sorted(found.fragments.tolist()) == [1, 4]
    assert (found.rows_in, found.rows_out, found.rows_quarantined) == (6, 4, 2)
    assert found.artifacts == {"a1"}


def test_a_part_without_an_account_is_opened(output: Output) -> None:
    commit(output, 1, 4)
    count(output, accounts(output), 1)
    found = output.resume(accounts(output), PLAN)
    assert sorted(found.fragments.tolist()) == [1, 4]
    assert (found.rows_in, found.rows_out, found.rows_quarantined) == (6, 4, 2)


def test_an_account_without_its_part_does_not_count(output: Output) -> None:
    commit(output, 1)
    count(output, accounts(output), 1, 4)
    found = output.resume(accounts(output), PLAN)
    assert found.fragments.tolist() == [1]
    assert found.rows_in == ROWS


def test_accounts_of_another_job_are_ignored(output: Output) -> None:
    commit(output, 1)
    accounts(output, "f2").add(part(1, 99, artifact="other"))
    kept = accounts(output, "f2")
    count(output, kept, 1, artifact="other")
    found = output.resume(accounts(output), PLAN)
    assert (found.fragments.tolist(), found.rows_in, found.artifacts) == ([1], ROWS, {"a1"})


def test_a_fragment_in_two_accounts_counts_once(output: Output) -> None:
    commit(output, 1, 4)
    count(output, accounts(output), 1, 4)
    count(output, accounts(output), 4)
    found = output.resume(accounts(output), PLAN)
    assert sorted(found.fragments.tolist()) == [1, 4]
    assert found.rows_in == 2 * ROWS


def test_every_artifact_that_made_a_part_is_named(output: Output) -> None:
    commit(output, 1)
    commit(output, 4, artifact="a2")
    count(output, accounts(output), 1)
    assert output.resume(accounts(output), PLAN).artifacts == {"a1", "a2"}


def test_an_empty_output_resumes_from_nothing(output: Output) -> None:
    found = output.resume(accounts(output), PLAN)
    assert (len(found.fragments), found.rows_in, found.artifacts) == (0, 0, frozenset())


def test_many_receipts_share_a_file_and_few_are_not_forgotten(output: Output, tmp_path: Path) -> None:
    kept = accounts(output)
    for i in range(1_200):
        kept.add(part(i, ROWS))
    assert len(everything_under(tmp_path)) == 2
    kept.flush()
    kept.flush()
    assert len(everything_under(tmp_path)) == 3
    assert np.array_equal(np.sort(kept.read()[0].column("fragment").to_numpy()), np.arange(1_200))


def test_an_account_is_no_part_of_the_output(output: Output) -> None:
    count(output, accounts(output), 1)
    assert output.sink.committed() == set()


def test_a_name_tells_its_fragment() -> None:
    assert index_of("part-0000012.parquet") == 12
    with pytest.raises(ValueError, match=r"x\.parquet is no part's name"):
        index_of("x.parquet")


def test_rows_are_counted_by_the_variant_that_answered_whether_accounts_or_footers_tell(output: Output) -> None:
    for i, variant in enumerate(["fast", "slow", "fast", None]):
        table = pa.table({"id": ["x"] * ROWS})
        put(output, f"part-{i:06d}.parquet", Fragment(i, "t", 0, ROWS), "f1", "a1", table, None, variant=variant)
    kept = accounts(output)
    part = lying(output, "part-000000.parquet")
    assert part is not None
    kept.add(part)
    kept.flush()
    found = output.resume(accounts(output), PLAN).rows_by_variant
    assert found == {"fast": 2 * ROWS, "slow": ROWS, "unnamed": ROWS}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"garbage"])
def test_an_account_that_cannot_be_read_is_dropped_and_its_parts_are_opened(output: Output, content: bytes) -> None:
    commit(output, 1, 4)
    count(output, accounts(output), 1, 4)
    (name,) = output.folder.names(under="_optinfer/accounts")
    output.folder.put(f"_optinfer/accounts/{name}", content)
    found = output.resume(accounts(output), PLAN)
    assert (sorted(found.fragments.tolist()), found.dropped) == ([1, 4], (f"_optinfer/accounts/{name}",))
    assert name not in output.folder.names(under="_optinfer/accounts")
    assert output.resume(accounts(output), PLAN).dropped == ()


def test_parts_that_were_opened_are_in_an_account_from_then_on(bucket: str, flaky: FlakyStore) -> None:
    output = Output(f"{bucket}/out")
    commit(output, 1, 4)
    first = output.resume(accounts(output), PLAN)
    opened = [path for method, path in flaky.asked if method == "GET" and "/out/part-" in path]
    assert sorted({path.rpartition("/")[2] for path in opened}) == ["part-000001.parquet", "part-000004.parquet"]
    flaky.asked.clear()
    assert output.resume(accounts(output), PLAN).rows_in == first.rows_in == 2 * ROWS
    assert [path for _, path in flaky.asked if "/out/part-" in path] == []


def test_of_two_accounts_the_one_counts_whose_size_is_there(output: Output) -> None:
    commit(output, 1)
    kept = accounts(output)
    kept.add(part(1, ROWS, bytes=12))
    kept.flush()
    count(output, kept, 1)
    kept.add(part(1, ROWS, bytes=13))
    kept.flush()
    found = output.resume(accounts(output), PLAN)
    assert (found.fragments.tolist(), found.rows_quarantined, found.damaged) == ([1], 1, ())


def test_a_part_of_another_size_than_every_account_says_is_removed(output: Output) -> None:
    commit(output, 1)
    kept = accounts(output)
    kept.add(part(1, ROWS, bytes=12))
    kept.flush()
    found = output.resume(accounts(output), PLAN)
    assert (found.fragments.tolist(), output.sink.committed()) == ([], set())
    assert found.damaged[0].endswith("bytes, 12 were written")


def test_a_fragment_that_is_scored_again_replaces_its_receipt(output: Output) -> None:
    kept = accounts(output)
    kept.add(part(0, ROWS, variant="v", bytes=10))
    kept.add(part(1, ROWS, variant="v", bytes=11))
    lost = kept.forget(np.array([1]))
    assert (lost.rows_in, lost.rows_by_variant) == (ROWS, {"v": ROWS})
    kept.add(part(1, ROWS - 1, rows_quarantined=1, variant="v", bytes=12))
    kept.add(part(0, ROWS, variant="v", bytes=13))
    table = kept.table().sort_by("fragment")
    assert (table["fragment"].to_pylist(), table["bytes"].to_pylist()) == ([0, 1], [13, 12])
