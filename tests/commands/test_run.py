"""A whole job, as a caller sees it: what is in the output, what is returned, and what is refused before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer import errors
from optinfer.data.lease import holder
from optinfer.data.lock import RunLock
from optinfer.data.storage import Folder
from optinfer.execution.in_process import InProcess
from optinfer.execution.placement import Node
from optinfer.records.receipt import Receipt
from optinfer.tracking.journal import read as read_journal
from tests.conftest import MakeJob, WriteTable, everything_under, read_rows

pytestmark = pytest.mark.usefixtures("fake_variant")


@pytest.fixture
def source(tmp_path: Path, write_table: WriteTable) -> Path:
    return write_table(tmp_path / "table.parquet", rows=100)


def ids(source: Path) -> list[str]:
    found: list[str] = pq.read_table(source)["id"].to_pylist()
    return found


@pytest.mark.usefixtures("shared_ray")
class TestOnRay:
    """What depends on Ray: order, placement, errors that travel back."""

    def test_every_row_is_scored_once_and_in_order(self, make_job: MakeJob, source: Path, sink: Path) -> None:
        record = optinfer.run(make_job(source, sink, sink__columns=["id", "section"]))

        rows = read_rows(sink)
        assert [row["id"] for row in rows] == ids(source)
        assert [row["section"] for row in rows] == pq.read_table(source)["section"].to_pylist()
        assert {len(row["embedding"]) for row in rows} == {384}
        assert (record.status, record.rows_in, record.rows_out) == ("done", 100, 100)
        assert (record.fragments, record.fragments_resumed) == (7, 0)
        assert record.placement[0].replicas == 2

    def test_a_job_from_s3_to_s3(self, make_job: MakeJob, source: Path, bucket: str) -> None:
        fs = fsspec.filesystem("s3", use_listings_cache=False)
        fs.put(str(source), f"{bucket}/table/batch=1/a.parquet")
        job = make_job(f"{bucket}/table/", f"{bucket}/out/", sink__columns=["id", "section"])
        assert optinfer.run(job).rows_out == 100

        rows = pads.dataset(f"{bucket.removeprefix('s3://')}/out", filesystem=fs, format="parquet").to_table()
        assert rows["id"].to_pylist() == ids(source)
        assert optinfer.run(job).status == "nothing to do"

    def test_a_row_error_stops_the_job_as_itself(
        self, make_job: MakeJob, write_table: WriteTable, tmp_path: Path, sink: Path
    ) -> None:
        source = write_table(tmp_path / "nulls.parquet", columns={"id": ["a", "b"], "text": ["x", None]})
        with pytest.raises(
            errors.RowError, match=r"row 1 of .*nulls\.parquet cannot be scored: text is null;.*on_error"
        ):
            optinfer.run(make_job(source, sink, sink__on_error="raise"))
        assert not (sink / "_SUCCESS").exists()

    def test_a_placement_that_does_not_fit_is_refused_with_the_numbers(
        self, make_job: MakeJob, source: Path, sink: Path
    ) -> None:
        with pytest.raises(errors.PlacementError, match=r"9 replicas of 1 threads do not fit: 2 free CPUs hold 2"):
            optinfer.run(make_job(source, sink, placement={"replicas": 9, "threads_per_replica": 1}))


@pytest.mark.usefixtures("without_ray")
class TestOutput:
    def test_all_readers_see_the_same_rows(self, make_job: MakeJob, source: Path, sink: Path) -> None:
        import duckdb
        import polars

        optinfer.run(make_job(source, sink))
        expected = ids(source)
        assert pq.read_table(sink)["id"].to_pylist() == expected
        assert sorted(polars.read_parquet(f"{sink}/*.parquet")["id"].to_list()) == sorted(expected)
        duck = duckdb.sql(f"select id, len(embedding) from '{sink}/*.parquet'").fetchall()
        assert sorted(duck) == sorted((i, 384) for i in expected)

    def test_partition_columns_can_be_carried(
        self, make_job: MakeJob, write_table: WriteTable, tmp_path: Path, sink: Path
    ) -> None:
        write_table(tmp_path / "table/year=2023/a.parquet", rows=2)
        write_table(tmp_path / "table/year=2024/a.parquet", rows=2, offset=2)
        optinfer.run(make_job(tmp_path / "table", sink, sink__columns=["id", "year"]))
        assert [row["year"] for row in read_rows(sink)] == [2023, 2023, 2024, 2024]

    def test_the_account_is_complete(self, make_job: MakeJob, source: Path, sink: Path) -> None:
        record = optinfer.run(make_job(source, sink))
        manifest = json.loads((sink / "_manifest.json").read_text())
        assert (sink / "_SUCCESS").exists()
        assert manifest["run"]["rows_in"] == manifest["run"]["rows_out"] == 100
        assert manifest["run"]["run_id"] == record.run_id
        assert manifest["job"]["variant"] == "fake"
        assert sorted(p.name for p in sink.iterdir() if p.is_file()) == [
            "_SUCCESS", "_manifest.json", *(f"part-{i:06d}.parquet" for i in range(7)),
        ]  # fmt: skip

    def test_the_record_keeps_its_contract(self, make_job: MakeJob, source: Path, sink: Path) -> None:
        record = json.loads(json.dumps(optinfer.run(make_job(source, sink)).as_dict()))
        promised = (
            "status run_id job variant fingerprint output fragments fragments_resumed rows_in rows_out "
            "rows_quarantined rows_deduplicated seconds startup_seconds rows_per_second tokens_per_second "
            "padding_fraction out_of_memory taken_over placement gate certificate mlflow"
        )
        assert set(promised.split()) <= set(record)
        assert set(record["gate"]) >= {"metric", "value", "threshold", "passed", "sample_rows"}
        assert set(record["mlflow"]) == {"uri", "experiment", "run_id"}

    @pytest.mark.parametrize(("dedupe", "saved"), [("auto", 12), (False, 0)])
    def test_identical_rows_of_a_fragment_are_scored_once_unless_the_job_says_no(
        self,
        make_job: MakeJob,
        write_table: WriteTable,
        tmp_path: Path,
        sink: Path,
        last_journal: Callable[[], Path],
        dedupe: Any,
        saved: int,
    ) -> None:
        columns = {"id": [str(i) for i in range(32)], "text": [f"package {i % 10}" for i in range(32)]}
        source = write_table(tmp_path / "repeated.parquet", columns=columns)  # two fragments of 16 rows
        record = optinfer.run(make_job(source, sink, batching__dedupe=dedupe))
        assert (record.rows_in, record.rows_out, record.rows_deduplicated) == (32, 32, saved)
        rows = read_rows(sink)
        assert [row["id"] for row in rows] == columns["id"]
        assert rows[0]["embedding"] == pytest.approx(rows[10]["embedding"], abs=1e-6)
        assert rows[0]["embedding"] != pytest.approx(rows[1]["embedding"], abs=1e-6)
        receipts = [event for event in read_journal(last_journal()) if event["event"] == "receipt"]
        assert {(r["max_batch_tokens"], r["max_batch_size"]) for r in receipts} == {(4096, 64)}

    def test_an_empty_table_gives_an_empty_output_with_a_schema(
        self, make_job: MakeJob, write_table: WriteTable, tmp_path: Path, sink: Path
    ) -> None:
        record = optinfer.run(make_job(write_table(tmp_path / "empty.parquet", rows=0), sink))
        assert (record.status, record.rows_in, record.rows_out) == ("done", 0, 0)
        table = pq.read_table(sink)
        assert table.num_rows == 0
        assert table.schema.names == ["id", "embedding"]
        assert table.schema.field("embedding").type == pa.list_(pa.float32(), 384)

    def test_a_table_of_one_row_is_scored(
        self, make_job: MakeJob, write_table: WriteTable, tmp_path: Path, sink: Path
    ) -> None:
        assert optinfer.run(make_job(write_table(tmp_path / "one.parquet", rows=1), sink)).rows_out == 1


@pytest.mark.usefixtures("without_ray")
class TestQuarantine:
    @pytest.fixture
    def odd(self, tmp_path: Path, write_table: WriteTable) -> Path:
        """Write texts that are null, empty and 80,000 characters long between ordinary ones."""
        texts = ["ordinary", None, "", "long " * 16_000, "ordinary too"] * 8
        return write_table(tmp_path / "odd.parquet", columns={"id": [f"r{i}" for i in range(40)], "text": texts})

    def test_nulls_are_quarantined_and_the_rest_is_scored(self, make_job: MakeJob, odd: Path, sink: Path) -> None:
        record = optinfer.run(make_job(odd, sink, sink__error_threshold=8))
        assert (record.rows_in, record.rows_out, record.rows_quarantined) == (40, 32, 8)
        assert [row["id"] for row in read_rows(sink)] == [f"r{i}" for i in range(40) if i % 5 != 1]
        assert json.loads((sink / "_manifest.json").read_text())["quarantine_reasons"] == {"text is null": 8}

    def test_quarantined_rows_say_what_where_and_why(self, make_job: MakeJob, odd: Path, sink: Path) -> None:
        optinfer.run(make_job(odd, sink, sink__error_threshold=8))
        rows = pads.dataset(sorted((sink / "_quarantine").iterdir()), format="parquet").to_table().to_pylist()
        assert [(row["id"], row["_row"], row["_file"], row["_reason"]) for row in rows] == [
            (f"r{i}", i, str(odd), "text is null") for i in range(1, 40, 5)
        ]
        assert {row["text"] for row in rows} == {None}

    def test_more_than_the_threshold_stops_the_job(self, make_job: MakeJob, odd: Path, sink: Path) -> None:
        with pytest.raises(errors.QuarantineError, match=r"sink\.error_threshold 0\.1 allows 4 of 40") as stopped:
            optinfer.run(make_job(odd, sink, sink__error_threshold=0.1))
        assert stopped.value.exit_code == 3
        assert not (sink / "_SUCCESS").exists()

    def test_a_higher_threshold_goes_on_from_what_is_committed(self, make_job: MakeJob, odd: Path, sink: Path) -> None:
        with pytest.raises(errors.QuarantineError):
            optinfer.run(make_job(odd, sink, sink__error_threshold=0))
        record = optinfer.run(make_job(odd, sink, sink__error_threshold=8))
        assert record.fragments_resumed > 0
        assert (record.rows_out, record.rows_quarantined) == (32, 8)

    def test_a_fragment_of_nulls_only_leaves_an_empty_part(
        self, make_job: MakeJob, write_table: WriteTable, tmp_path: Path, sink: Path
    ) -> None:
        columns = {"id": [f"r{i}" for i in range(32)], "text": [None] * 16 + ["x"] * 16}
        source = write_table(tmp_path / "half.parquet", columns=columns)
        assert optinfer.run(make_job(source, sink, sink__error_threshold=16)).rows_out == 16
        assert pq.read_table(sink).num_rows == 16

    def test_a_truncated_file_is_left_out_and_named_where_the_job_says_so(
        self, make_job: MakeJob, write_table: WriteTable, tmp_path: Path, sink: Path
    ) -> None:
        write_table(tmp_path / "table/a.parquet", rows=20)
        broken = write_table(tmp_path / "table/b.parquet", rows=20, offset=20)
        broken.write_bytes(broken.read_bytes()[:-100])
        said: list[str] = []
        record = optinfer.run(make_job(tmp_path / "table", sink, source__on_bad_file="quarantine"), say=said.append)
        assert record.rows_out == 20
        assert [f["path"] for f in json.loads((sink / "_manifest.json").read_text())["bad_files"]] == [str(broken)]
        assert any("b.parquet is left out" in line for line in said)

    @pytest.fixture
    def rotten(self, tmp_path: Path, write_table: WriteTable) -> Path:
        """Write a file whose footer is sound and whose second row group cannot be decoded."""
        path = write_table(tmp_path / "rotten.parquet", rows=32, row_group_size=16, compression="zstd")
        group = pq.ParquetFile(path).metadata.row_group(1)
        data = bytearray(path.read_bytes())
        for column in (group.column(i) for i in range(group.num_columns)):
            start = column.dictionary_page_offset or column.data_page_offset
            data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
        path.write_bytes(data)
        return path

    def test_rows_that_cannot_be_decoded_stop_the_job(self, make_job: MakeJob, rotten: Path, sink: Path) -> None:
        with pytest.raises(errors.SourceError, match=r"cannot read rows 16-\d+: .*rotten\.parquet.*on_bad_file"):
            optinfer.run(make_job(rotten, sink))

    def test_rows_that_cannot_be_decoded_are_quarantined_where_the_job_says_so(
        self, make_job: MakeJob, rotten: Path, sink: Path
    ) -> None:
        job = make_job(rotten, sink, source__on_bad_file="quarantine", sink__error_threshold=16)
        record = optinfer.run(job)
        assert (record.rows_out, record.rows_quarantined) == (16, 16)
        assert pq.read_table(sink).num_rows == 16
        quarantined = pads.dataset(sorted((sink / "_quarantine").iterdir()), format="parquet").to_table()
        assert quarantined["_row"].to_pylist() == list(range(16, 32))


@pytest.mark.usefixtures("without_ray")
class TestResume:
    def test_a_finished_job_has_nothing_to_do(self, make_job: MakeJob, source: Path, sink: Path) -> None:
        first = optinfer.run(make_job(source, sink))
        before = {p: p.stat().st_mtime_ns for p in sink.rglob("*")}
        again = optinfer.run(make_job(source, sink))
        assert again.status == "nothing to do"
        assert (again.run_id, again.fragments_resumed) == (first.run_id, first.fragments)
        assert {p: p.stat().st_mtime_ns for p in sink.rglob("*")} == before

    def test_resume_skips_committed_fragments(self, make_job: MakeJob, source: Path, sink: Path) -> None:
        optinfer.run(make_job(source, sink))
        for name in ("_SUCCESS", "_manifest.json", "part-000002.parquet"):
            (sink / name).unlink()
        before = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in sink.glob("*.parquet")}

        record = optinfer.run(make_job(source, sink))
        after = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in sink.glob("*.parquet")}
        assert (record.fragments, record.fragments_resumed) == (7, 6)
        assert {name: after[name] for name in before} == before
        assert [row["id"] for row in read_rows(sink)] == ids(source)

    def test_a_run_that_died_before_its_manifest_only_accounts(
        self, make_job: MakeJob, source: Path, sink: Path
    ) -> None:
        optinfer.run(make_job(source, sink))
        (sink / "_SUCCESS").unlink()
        record = optinfer.run(make_job(source, sink))
        assert (record.status, record.fragments_resumed, record.rows_out) == ("done", 7, 100)
        assert (sink / "_SUCCESS").exists()

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"source__limit": 50}, "source.rows: 100 there, 50 here"),
            ({"model__max_length": 16}, "model.max_length: null there, 16 here"),
            ({"sink__columns": ["id", "section"]}, 'sink.columns: ["id"] there, ["id", "section"] here'),
            ({"batching": {"max_batch_size": 3}}, 'batching.max_batch_size: "auto" there, 3 here'),
        ],
        ids=["rows", "model settings", "columns", "batching"],
    )
    def test_another_job_is_refused_with_what_differs(
        self, make_job: MakeJob, source: Path, sink: Path, change: dict[str, Any], field: str
    ) -> None:
        optinfer.run(make_job(source, sink))
        before = {p: p.stat().st_mtime_ns for p in sink.rglob("*.*") if p.parent.name != "lease"}
        with pytest.raises(errors.OutputConflictError) as refused:
            optinfer.run(make_job(source, sink, **change))
        assert field in str(refused.value)
        assert {p: p.stat().st_mtime_ns for p in sink.rglob("*.*") if p.parent.name != "lease"} == before

    def test_a_changed_table_is_another_job(
        self, make_job: MakeJob, source: Path, sink: Path, write_table: WriteTable
    ) -> None:
        optinfer.run(make_job(source, sink))
        write_table(source, rows=100, offset=100)
        with pytest.raises(errors.OutputConflictError, match=r"source\.files"):
            optinfer.run(make_job(source, sink))

    def test_how_a_job_runs_may_change_between_attempts(self, make_job: MakeJob, source: Path, sink: Path) -> None:
        optinfer.run(make_job(source, sink))
        changed = make_job(source, sink, placement={"replicas": 1}, tracking={"experiment": "other"}, name="other")
        assert optinfer.run(changed).status == "nothing to do"

    def test_an_output_without_a_row_may_be_given_to_another_job(
        self, make_job: MakeJob, source: Path, sink: Path
    ) -> None:
        with pytest.raises(errors.GateError):
            optinfer.run(make_job(source, sink, gate__min=1.1))
        assert optinfer.run(make_job(source, sink, sink__columns=["section"])).rows_out == 100

    def test_two_runs_at_once_are_refused(self, make_job: MakeJob, source: Path, sink: Path) -> None:
        with RunLock(Folder(str(sink))), pytest.raises(errors.OutputConflictError, match="live run"):
            optinfer.run(make_job(source, sink))
        assert optinfer.run(make_job(source, sink)).rows_out == 100

    def test_a_run_whose_output_was_taken_over_ends_and_finishes_nothing(
        self, make_job: MakeJob, source: Path, sink: Path
    ) -> None:
        """As when it was stopped for a minute, after its first fragment, and a run of another machine began."""
        lease = "_optinfer/lease/00000002.json"

        class TakenOver(InProcess):
            def stream(self, *arguments: Any) -> Generator[Receipt, None, None]:  # type: ignore[override]
                folder, receipts = Folder(str(sink)), super().stream(*arguments)
                yield next(receipts)
                held = holder(folder)
                assert held is not None
                taker = replace(held, epoch=2, token="theirs", host="node-3", place="elsewhere")
                folder.put(lease, json.dumps(taker.as_dict()).encode())
                yield from receipts

        with pytest.raises(errors.OutputConflictError, match=r"taken over by another run \(process \d+ on node-3"):
            optinfer.run(make_job(source, sink), executor=TakenOver([Node(cpus=1)]))
        assert not (sink / "_SUCCESS").exists()
        assert not (sink / "_manifest.json").exists()
        there = json.loads((sink / lease).read_text())
        assert there["token"] == "theirs"
        (sink / lease).write_text(json.dumps({**there, "ended": True}))
        assert optinfer.run(make_job(source, sink)).rows_out == 100


@pytest.mark.usefixtures("without_ray")
class TestRefusals:
    """Each stops before anything is written."""

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"source__path": "/nowhere.parquet"}, errors.ConfigError, r"/nowhere\.parquet does not exist"),
            ({"source__path": "/nowhere/*.parquet"}, errors.ConfigError, r"no file matches"),
            ({"source__columns": {"text": "tekst"}}, errors.ConfigError, r"'tekst' is not in .*did you mean 'text'"),
            ({"sink__columns": ["ids"]}, errors.ConfigError, r"'ids' is not in .*did you mean 'id'"),
            ({"source__columns": {}}, errors.ConfigError, r"source\.columns lacks 'text'.*add `text: <a source column>`"),
            ({"source__columns": {"text": "text", "id": "id"}}, errors.ConfigError, r"other columns .* sink\.columns"),
            ({"gate__metric": "cosin"}, errors.ConfigError, r"no metric 'cosin' here; did you mean 'cosine'\?"),
            ({"variant": "onnx-fp23"}, errors.ConfigError, r"no variant 'onnx-fp23'; did you mean 'onnx-fp32'\?"),
            ({"gate__fallback": "touch-fp32"}, errors.ConfigError, r"did you mean 'torch-fp32'"),
            ({"model__family": "text-embeding"}, errors.ConfigError, r"did you mean 'text-embedding'"),
            ({"model__path": "/no/model"}, errors.ConfigError, r"model\.path /no/model"),
            ({"model__path": "package:no_such_model/model"}, errors.ConfigError, r"pip install no-such-model"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )  # fmt: skip
    def test_a_wrong_job_names_the_fix(
        self, make_job: MakeJob, source: Path, sink: Path, change: dict[str, Any],
        error: type[errors.OptinferError], message: str,
    ) -> None:  # fmt: skip
        with pytest.raises(error, match=message):
            optinfer.run(make_job(source, sink, **change))
        assert everything_under(sink) == []

    @pytest.mark.parametrize("values", [[1, 2], [b"x", b"y"], [["x"], ["y"]]], ids=["int64", "binary", "list"])
    def test_a_column_that_holds_no_strings_is_refused(
        self, make_job: MakeJob, write_table: WriteTable, tmp_path: Path, sink: Path, values: list[Any]
    ) -> None:
        source = write_table(tmp_path / "numbers.parquet", columns={"id": ["a", "b"], "text": values})
        with pytest.raises(errors.ConfigError, match=r"column 'text' holds .*, text needs strings; map source"):
            optinfer.run(make_job(source, sink))
        assert everything_under(sink) == []

    def test_a_carried_column_may_not_hide_an_output_column(
        self, make_job: MakeJob, write_table: WriteTable, tmp_path: Path, sink: Path
    ) -> None:
        source = write_table(tmp_path / "t.parquet", columns={"embedding": ["a"], "text": ["x"]})
        with pytest.raises(errors.ConfigError, match=r"sink\.columns \['embedding'\]"):
            optinfer.run(make_job(source, sink, sink__columns=["embedding"]))

    def test_a_column_is_carried_once(self, make_job: MakeJob, source: Path, sink: Path) -> None:
        with pytest.raises(errors.ConfigError, match=r"sink\.columns names \['id'\] twice"):
            optinfer.run(make_job(source, sink, sink__columns=["id", "id"]))

    def test_an_output_inside_the_source_is_refused(self, make_job: MakeJob, source: Path) -> None:
        with pytest.raises(errors.ConfigError, match=r"sink\.path .* lies inside source\.path"):
            optinfer.run(make_job(source.parent, source.parent / "out"))
        assert everything_under(source.parent) == ["table.parquet"]

    def test_a_truncated_file_is_named(self, make_job: MakeJob, source: Path, sink: Path) -> None:
        source.write_bytes(source.read_bytes()[:-100])
        with pytest.raises(errors.SourceError, match=r"table\.parquet is not a readable Parquet file") as refused:
            optinfer.run(make_job(source, sink))
        assert refused.value.exit_code == 1
        assert everything_under(sink) == []

    def test_an_output_that_cannot_be_written_says_what_to_check(
        self, make_job: MakeJob, source: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(errors.OptinferError, match=r"cannot use .*check the path, its permissions, credentials"):
            optinfer.run(make_job(source, tmp_path / "file" / "out"))

    def test_a_folder_of_foreign_parquet_files_is_left_as_it_is(self, make_job: MakeJob, source: Path) -> None:
        with pytest.raises(errors.OutputConflictError, match=r"choose an empty sink\.path"):
            optinfer.run(make_job(source, source.parent))
        assert everything_under(source.parent) == ["table.parquet"]

    def test_a_variant_below_the_gate_scores_nothing(self, make_job: MakeJob, source: Path, sink: Path) -> None:
        with pytest.raises(errors.GateError, match=r"fake: cosine .* below gate\.min 0\.99") as refused:
            optinfer.run(make_job(source, sink, gate__min=0.99))
        assert refused.value.exit_code == 4
        assert list(sink.glob("*.parquet")) == []

    def test_a_named_fallback_scores_instead_and_that_is_said(
        self, make_job: MakeJob, source: Path, sink: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from optinfer.optimization.variants import VARIANTS, Variant

        monkeypatch.setitem(VARIANTS, "worse", Variant(name="worse", backend="fake", about="for tests"))
        said: list[str] = []
        job = make_job(source, sink, variant="worse", gate={"min": 0.99, "sample_rows": 8, "fallback": "torch-fp32"})
        record = optinfer.run(job, say=said.append)
        assert record.variant == "torch-fp32"
        assert any("worse does not score: cosine" in line for line in said)
        assert "worse does not score" in (sink / "_manifest.json").read_text()


@pytest.mark.usefixtures("without_ray")
class TestTracking:
    def test_credentials_in_urls_reach_neither_manifest_nor_journal(
        self, make_job: MakeJob, source: Path, sink: Path, free_port: int, last_journal: Callable[[], Path]
    ) -> None:
        uri = f"http://reader:s3cret@127.0.0.1:{free_port}/?token=t0ken"
        optinfer.run(make_job(source, sink, tracking__uri=uri))
        for text in ((sink / "_manifest.json").read_text(), last_journal().read_text()):
            assert "s3cret" not in text
            assert "t0ken" not in text

    def test_the_run_holds_params_metrics_artifacts_and_datasets(
        self, make_job: MakeJob, source: Path, sink: Path
    ) -> None:
        from mlflow import MlflowClient

        from optinfer.system import home

        record = optinfer.run(make_job(source, sink))
        client = MlflowClient(tracking_uri=home.default_tracking_uri())
        run = client.get_run(record.mlflow.run_id)
        assert run.info.status == "FINISHED"
        assert run.data.tags["optinfer.fingerprint"] == record.fingerprint
        promised = (
            "variant techniques backend precision device batching.max_batch_tokens placement.replicas "
            "placement.threads_per_replica model.digest data.digest"
        )
        assert set(promised.split()) <= set(run.data.params)
        metrics = (
            "job/rows job/rows_quarantined job/seconds job/rows_per_second replica/rows_per_second gate/value "
            "stats/rows_out stats/padding_fraction stats/micro_batch_ms.p50 stats/micro_batch_ms.p95 "
            "stats/micro_batch_ms.p99 stats/build_seconds stats/artifact_mb stats/replica_peak_rss_mb progress/rows"
        )
        assert set(metrics.split()) <= set(run.data.metrics)
        assert run.data.metrics["stats/rows_out"] == 100
        assert {d.tags[0].value for d in run.inputs.dataset_inputs} == {"input", "output"}
        artifacts = {a.path for a in client.list_artifacts(run.info.run_id)}
        assert artifacts >= {"manifest.json", "certificate.json"}

    def test_mlflow_out_of_reach_costs_a_warning_only(
        self, make_job: MakeJob, source: Path, sink: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
    ) -> None:
        from optinfer.system import home

        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        said: list[str] = []
        record = optinfer.run(make_job(source, sink, tracking__uri=f"http://127.0.0.1:{free_port}"), say=said.append)
        assert record.status == "done"
        assert "did not take everything" in record.mlflow.warning
        assert any(line.startswith("warning: MLflow at http://127.0.0.1") for line in said)
        events = list(read_journal(home.runs() / record.run_id / "journal.jsonl"))
        kinds = [event["event"] for event in events]
        assert kinds[0] == "start"
        assert kinds.count("receipt") == 7
        finish = next(event for event in events if event["event"] == "finish")
        assert finish["metrics"]["stats/rows_out"] == 100
        assert set(finish["artifacts"]) >= {"manifest.json", "certificate.json"}

    def test_a_failed_run_is_recorded_as_failed(
        self, make_job: MakeJob, source: Path, sink: Path, last_journal: Callable[[], Path]
    ) -> None:
        with pytest.raises(errors.GateError):
            optinfer.run(make_job(source, sink, gate__min=0.99))
        (finish,) = (event for event in read_journal(last_journal()) if event["event"] == "finish")
        assert finish["status"] == "failed"
        assert "no variant passes the gate" in finish["tags"]["optinfer.error"]


@pytest.mark.parametrize("name", ["embedding", "Embedding"])
def test_a_carried_column_that_readers_take_for_the_models_is_refused(
    name: str, tmp_path: Path, write_table: WriteTable, make_job: MakeJob, sink: Path
) -> None:
    """DuckDB's `SELECT embedding` would give whichever of the two comes first: the carried one."""
    from optinfer.commands.resolved import resolve

    source = write_table(tmp_path / "t.parquet", columns={"text": ["a"], name: [1]})
    with pytest.raises(errors.ConfigError, match=f"'{name}'.* has the name of a column that the job adds"):
        resolve(make_job(source, sink, sink__columns=[name]))
