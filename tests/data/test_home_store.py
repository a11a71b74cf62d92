"""A home on S3: what one machine keeps another finds, whole or not at all; two machines are two cache folders here."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from optinfer.commands.readiness import require_places
from optinfer.data import home_store
from optinfer.errors import ConfigError, OptinferError, StorageError
from optinfer.models.artifact import Artifact
from optinfer.optimization import build as building
from optinfer.system import home
from tests.data.flaky_store import FlakyStore, flipped_byte, refusal, reset
from tests.optimization.test_build import VARIANT, context, technique

__all__ = ["technique"]

On = Callable[[str], None]


@pytest.fixture
def on(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> On:
    """Return what makes this process one on the machine of a name; it is on `a`."""

    def be(machine: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))

    monkeypatch.setenv("OPTINFER_HOME", f"{bucket}/optinfer")
    be("a")
    return be


@pytest.fixture
def model(on: On, tmp_path: Path) -> Artifact:
    return Artifact(path=str(tmp_path), format="torch", precision="fp32", key="model")


def objects(bucket: str) -> dict[str, bytes]:
    """Return what lies in a bucket, as a client that knows nothing of optinfer reads it."""
    found = boto3.resource("s3").Bucket(bucket.removeprefix("s3://")).objects.all()
    return {one.key.removeprefix("optinfer/"): one.get()["Body"].read() for one in found}


def write(bucket: str, key: str, content: bytes) -> None:
    boto3.client("s3").put_object(Bucket=bucket.removeprefix("s3://"), Key=f"optinfer/{key}", Body=content)


def text(path: Path) -> str:
    """Return what a kept file says; `unusable` says nothing that anybody can use."""
    if (said := path.read_text()) == "unusable":
        raise ValueError(said)
    return said


def kept(name: str = "tuned/x.json") -> Path:
    return home.home() / name


class TestFiles:
    def test_another_machine_has_it_and_asks_once(self, on: On, bucket: str) -> None:
        home_store.put(kept(), b"made on a", text)
        on("b")
        assert not kept().exists()
        assert home_store.read(kept(), text) == "made on a"
        assert kept().read_text() == "made on a"
        for key in objects(bucket):
            write(bucket, key, b"")
        assert home_store.read(kept(), text) == "made on a"

    def test_it_lies_under_its_own_sha256(self, on: On, bucket: str) -> None:
        home_store.put(kept(), b"made on a", text)
        entry = json.loads(objects(bucket)["kept/tuned/x.json.json"])
        sha256 = hashlib.sha256(b"made on a").hexdigest()
        assert entry == {"x.json": {"sha256": sha256, "size": 9}}
        assert objects(bucket)[f"contents/{sha256}"] == b"made on a"

    def test_the_first_of_two_wins_and_the_second_takes_it(self, on: On) -> None:
        home_store.put(kept(), b"made on a", text)
        on("b")
        home_store.put(kept(), b"made on b", text)
        assert kept().read_text() == "made on a"

    def test_one_that_nobody_can_use_gives_way(self, on: On) -> None:
        home_store.put(kept(), b"unusable", text)
        on("b")
        home_store.put(kept(), b"made on b", text)
        on("c")
        assert home_store.read(kept(), text) == "made on b"

    def test_what_is_written_again_is_read_as_it_was_last(self, on: On) -> None:
        home_store.replace(kept(), b"made on a")
        on("b")
        home_store.replace(kept(), b"made on b")
        on("a")
        assert home_store.read_newest(kept(), text) == "made on b"

    def test_names_are_those_of_all_machines(self, on: On) -> None:
        home_store.replace(kept("tuned/k-1-2.json"), b"a")
        on("b")
        home_store.replace(kept("tuned/k-3-4.json"), b"b")
        home_store.replace(kept("tuned/other-3-4.json"), b"b")
        assert home_store.names(kept("tuned"), "k-*.json") == {"k-1-2.json", "k-3-4.json"}

    @pytest.mark.parametrize(
        "damage", ["flipped", "shorter", "empty", "gone", "garbage", "of other kinds", "leads out"]
    )
    def test_what_is_damaged_is_named_and_may_be_made_again(
        self, on: On, bucket: str, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        home_store.put(kept(), b"made on a", text)
        (content,) = (key for key in objects(bucket) if key.startswith("contents/"))
        entry = "kept/tuned/x.json.json"
        if damage == "gone":
            boto3.client("s3").delete_object(Bucket=bucket.removeprefix("s3://"), Key=f"optinfer/{content}")
        elif damage in ("flipped", "shorter", "empty"):
            write(bucket, content, {"flipped": b"made on A", "shorter": b"made", "empty": b""}[damage])
        else:
            garbage = {"garbage": b"{", "of other kinds": b"[1]", "leads out": b'{"../x": {"size": 1, "sha256": "00"}}'}
            write(bucket, entry, garbage[damage])
        on("b")
        assert home_store.read(kept(), text) is None
        assert not kept().exists()
        assert f"tuned/x.json of the home {bucket}/optinfer is damaged" in caplog.text
        home_store.put(kept(), b"made on b", text)
        on("c")
        assert home_store.read(kept(), text) == "made on b"


class TestArtifacts:
    def test_another_machine_builds_nothing_and_has_the_same_bytes(
        self, on: On, model: Artifact, technique: list[object]
    ) -> None:
        first = building.build(VARIANT, model, "rows", context)
        on("b")
        said: list[str] = []
        again = building.build(VARIANT, model, "rows", context, said.append)
        assert len(technique) == 1
        assert said == ["v: written is fetched, not built"]
        assert again.key == first.key
        assert again.path == str(home.artifacts() / first.key)
        assert again.file.read_bytes() == first.file.read_bytes()

    def test_what_is_known_without_building_is_fetched_too(
        self, on: On, model: Artifact, technique: list[object]
    ) -> None:
        assert building.cached(VARIANT, model, "rows") is None
        first = building.build(VARIANT, model, "rows", context)
        on("b")
        found = building.cached(VARIANT, model, "rows")
        assert found is not None
        assert found.key == first.key

    def test_of_many_processes_of_a_machine_one_fetches(
        self, on: On, model: Artifact, technique: list[object], flaky: FlakyStore
    ) -> None:
        building.build(VARIANT, model, "rows", context)
        on("b")
        flaky.asked.clear()
        together = threading.Barrier(8)

        def fetch(_: int) -> Artifact | None:
            together.wait()
            return building.cached(VARIANT, model, "rows")

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(fetch, range(8)))
        assert found == [found[0]] * 8
        assert found[0] is not None
        contents = [path for method, path in flaky.asked if method == "GET" and "/contents/" in path]
        assert len(contents) == len(set(contents)) == 2  # the model, and the record of what it is

    def test_of_two_machines_that_build_at_once_both_take_the_first(
        self, on: On, model: Artifact, technique: list[object], bucket: str
    ) -> None:
        """The other machine has put its own while this one was building."""

        def other_builds() -> building.BuildContext:
            on("b")
            other.append(building.build(VARIANT, model, "rows", context))
            on("a")
            return context()

        other: list[Artifact] = []
        ours = building.build(VARIANT, model, "rows", other_builds)
        assert len(technique) == 2
        assert ours.build_seconds == other[0].build_seconds  # of the one build that counts
        record, theirs = (Path(one.path, "artifact.json").read_bytes() for one in (ours, other[0]))
        assert record == theirs

    def test_a_byte_that_flips_on_its_way_is_asked_for_again(
        self, on: On, model: Artifact, technique: list[object], flaky: FlakyStore
    ) -> None:
        building.build(VARIANT, model, "rows", context)
        on("b")
        flaky.meets = lambda method, path, headers: method == "GET" and "/contents/" in path
        flaky.faults = [flipped_byte]
        assert building.cached(VARIANT, model, "rows") is not None
        assert not flaky.faults
        assert len(technique) == 1

    def test_one_that_is_damaged_there_is_built_again_and_repaired(
        self, on: On, model: Artifact, technique: list[object], bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = building.build(VARIANT, model, "rows", context)
        whole = first.file.read_bytes()
        content = f"contents/{hashlib.sha256(whole).hexdigest()}"
        write(bucket, content, bytes([whole[0] ^ 1]) + whole[1:])
        on("b")
        again = building.build(VARIANT, model, "rows", context)
        assert len(technique) == 2
        assert f"artifacts/{first.key} of the home {bucket}/optinfer is damaged (model.onnx is not" in caplog.text
        assert again.file.read_bytes() == objects(bucket)[content] == whole
        on("c")
        assert building.cached(VARIANT, model, "rows") is not None

    def test_a_name_that_leads_out_of_the_folder_is_written_nowhere(
        self, on: On, model: Artifact, technique: list[object], bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = building.build(VARIANT, model, "rows", context)
        entry = f"kept/artifacts/{first.key}.json"
        write(bucket, entry, objects(bucket)[entry].replace(b'"model.onnx"', b'"../escaped"'))
        on("b")
        assert building.cached(VARIANT, model, "rows") is None
        assert not list(home.home().rglob("escaped"))
        assert "its entry cannot be read: ValueError" in caplog.text

    def test_one_that_is_damaged_here_is_fetched(
        self, on: On, model: Artifact, technique: list[object], caplog: pytest.LogCaptureFixture
    ) -> None:
        first = building.build(VARIANT, model, "rows", context)
        whole = first.file.read_bytes()
        first.file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        assert building.build(VARIANT, model, "rows", context).file.read_bytes() == whole
        assert len(technique) == 1
        assert f"{first.path} is damaged (model.onnx is not as it was)" in caplog.text

    def test_a_disk_that_takes_no_more_is_said_and_nothing_is_half_there(
        self, on: On, model: Artifact, technique: list[object]
    ) -> None:
        building.build(VARIANT, model, "rows", context)
        on("b")
        with full_disk(), pytest.raises(OptinferError, match=r"cannot write .*; free or repair .* set XDG_CACHE_HOME"):
            building.cached(VARIANT, model, "rows")
        assert not [path for path in home.home().rglob("*") if path.is_file() and path.suffix != ".lock"]
        assert building.cached(VARIANT, model, "rows") is not None


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file of this process grow beyond a byte: the error of a full disk, but for its number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


class TestStoreThatFails:
    @pytest.mark.parametrize("fault", [reset, refusal(503, "SlowDown")])
    def test_one_that_is_away_is_done_without_and_not_asked_again(
        self, on: On, flaky: FlakyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
        fault: Callable[[object], bool], bucket: str,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(home_store, "_WAITING", home_store.Waiting(0.2, 0.01, 0.02, 0.1))
        flaky.meets, flaky.forever = (lambda method, path, headers: True), fault
        require_places()
        asked = len(flaky.asked)
        home_store.put(kept(), b"made on a", text)
        assert home_store.read(kept(), text) == "made on a"
        assert home_store.read(kept("tuned/none"), text) is None
        assert home_store.journal("r") == {}
        assert home_store.runs() == []
        assert len(flaky.asked) == asked > 0
        said = f"the home {bucket}/optinfer is done without"
        assert caplog.text.count(said) == 1

    def test_a_later_command_of_the_process_asks_it_again(self, on: On, flaky: FlakyStore, bucket: str) -> None:
        flaky.meets, flaky.faults = (lambda method, path, headers: True), [refusal(403, "AccessDenied")]
        assert home_store.read(kept(), text) is None
        home_store.put(kept(), b"made without", text)
        assert objects(bucket) == {}
        require_places()
        home_store.put(kept("tuned/y.json"), b"made with", text)
        assert "kept/tuned/y.json.json" in objects(bucket)

    def test_keys_that_are_refused_are_said_before_anything_is_worked_out(self, on: On, flaky: FlakyStore) -> None:
        flaky.meets, flaky.forever = (lambda method, path, headers: True), refusal(403, "AccessDenied")
        with pytest.raises(StorageError, match=r"OPTINFER_HOME cannot be used: cannot use s3://.*credentials"):
            require_places()

    def test_a_bucket_that_is_not_there_is_said_too(
        self, on: On, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPTINFER_HOME", "s3://no-such-bucket-here/optinfer")
        with pytest.raises(StorageError, match=r"OPTINFER_HOME cannot be used: .*no-such-bucket-here"):
            require_places()

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("memory://home", "memory of one process"),
            ("s3://", "names no bucket"),
            ("nonsense://x/y", "cannot open nonsense://x/y"),
        ],
    )
    def test_what_is_no_store_is_refused(self, on: On, monkeypatch: pytest.MonkeyPatch, url: str, why: str) -> None:
        monkeypatch.setenv("OPTINFER_HOME", url)
        with pytest.raises(ConfigError, match=why):
            require_places()

    def test_nothing_of_its_keys_is_shown(self, on: On, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPTINFER_HOME", "s3://KEY:s3cret@bucket/optinfer?token=s3cret")
        assert "s3cret" not in home.shown()
        with_other_keys = home.home()
        monkeypatch.setenv("OPTINFER_HOME", "s3://bucket/optinfer")
        assert home.home() == with_other_keys


def test_a_folder_by_file_url_is_that_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPTINFER_HOME", f"file://{tmp_path}/home")
    assert (home.home(), home.store()) == (tmp_path / "home", None)
