"""What opening a model may do: nothing. Each attack is first shown to work on the library, then to be refused."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_leaves

from optinfer import plugins
from optinfer.errors import ConfigError
from optinfer.families import FAMILIES
from optinfer.families._torch_files import load_pt2
from optinfer.models.safety import check_onnx, check_pt2, check_safetensors
from tests.conftest import RunCli, WriteTable, located, read_rows

WIDTH = 4

pytestmark = pytest.mark.usefixtures("fake_variant")


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return open, (str(self.file), "w")


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """Return the file that exists once an attack has run."""
    return tmp_path / "sprung"


@pytest.fixture
def numbers(tmp_path: Path, write_table: WriteTable) -> Path:
    rows = np.random.default_rng(0).normal(size=(40, WIDTH)).astype(np.float32)
    return write_table(tmp_path / "numbers.parquet", columns={"id": list(range(40)), "x": list(rows)})


def saved(value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


class TestPickles:
    @pytest.mark.parametrize("command", ["run", "plan"])
    @pytest.mark.parametrize("written", [pickle.dumps, saved], ids=["pickle", "torch.save"])
    @pytest.mark.parametrize(
        "name", ["model.pt", "model.pth", "model.BIN", "model.pkl", "model.onnx", "model.safetensors", "model.pt2"]
    )
    def test_a_pickle_is_refused_under_any_name(
        self, run_cli: RunCli, write_job: Any, numbers: Path, sink: Path, tmp_path: Path, sprung: Path,
        name: str, written: Callable[[Any], bytes], command: str,
    ) -> None:  # fmt: skip
        model = tmp_path / name
        model.write_bytes(written(Trap(sprung)))
        job = write_job(numbers, sink, model={"path": str(model), "family": "tensor"}, source__columns={"x": "x"})
        code, _, err = run_cli(command, job)
        assert code == 2
        assert f"{model} is a pickle, which can run any code when it is opened" in err
        assert "set model.allow_pickle: true" in err
        assert not sprung.exists()
        assert not sink.exists()

    def test_the_trap_is_real(self, tmp_path: Path, sprung: Path) -> None:
        torch.load(io.BytesIO(saved(Trap(sprung))), weights_only=False)
        assert sprung.exists()

    @pytest.mark.parametrize("command", ["run", "plan"])
    def test_a_folder_of_pickled_weights_is_refused(
        self, run_cli: RunCli, write_job: Any, write_table: WriteTable, sink: Path, tmp_path: Path, sprung: Path,
        command: str,
    ) -> None:  # fmt: skip
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "pytorch_model.bin").write_bytes(saved(Trap(sprung)))
        job = write_job(write_table(tmp_path / "t.parquet"), sink, model__path=str(folder))
        code, _, err = run_cli(command, job)
        assert code == 2
        assert "pytorch_model.bin is a pickle" in err
        assert not sprung.exists()

    def test_a_folder_of_pickled_weights_loads_where_the_job_allows_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        shutil.copytree(located().path, folder)
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        with pytest.raises(ConfigError, match=r"pytorch_model\.bin is a pickle"):
            located(folder)
        family = FAMILIES.get("text-embedding").load(located(folder, allow_pickle=True), {})
        assert sum(p.numel() for p in family.load_module().parameters()) > 10**7

    def test_a_folder_may_not_pass_a_pickle_off_as_safetensors(
        self, run_cli: RunCli, write_job: Any, write_table: WriteTable, sink: Path, tmp_path: Path, sprung: Path
    ) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(saved(Trap(sprung)))
        code, _, err = run_cli("plan", write_job(write_table(tmp_path / "t.parquet"), sink, model__path=str(folder)))
        assert code == 2
        assert "model.safetensors is a pickle" in err
        assert not sprung.exists()

    def test_a_file_without_a_header_is_no_safetensors(self, tmp_path: Path) -> None:
        file = tmp_path / "model.safetensors"
        file.write_bytes(b"anything else at all")
        with pytest.raises(ConfigError, match=r"write it with safetensors\.torch\.save_file"):
            check_safetensors(file)
        save_file({"w": torch.ones(2)}, str(file))
        check_safetensors(file)

    @pytest.mark.usefixtures("without_ray")
    def test_pickled_weights_score_where_the_job_allows_it(
        self, run_cli: RunCli, write_job: Any, numbers: Path, sink: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        code_folder = tmp_path / "code"
        code_folder.mkdir()
        (code_folder / "my_net.py").write_text(
            "import torch\n"
            "class Net(torch.nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n        self.l = torch.nn.Linear(4, 2)\n"
            "    def forward(self, x):\n        return self.l(x)\n"
        )
        monkeypatch.chdir(code_folder)
        monkeypatch.syspath_prepend(tmp_path)
        weights = {"l.weight": torch.ones(2, WIDTH), "l.bias": torch.tensor([0.0, 1.0])}
        torch.save(weights, tmp_path / "net.pth")
        model = {"path": str(tmp_path / "net.pth"), "family": "tensor", "class": "my_net:Net", "outputs": {"y": 2}}
        table = {"variant": "torch-fp32", "gate": {"min": 0.99, "sample_rows": 8}}
        columns = {"source__columns": {"x": ["a", "b", "c", "d"]}}
        import pyarrow.parquet as pq

        rows = np.array(pq.read_table(numbers)["x"].to_pylist(), dtype=np.float32)
        wide = {"id": list(range(40)), **{name: rows[:, i] for i, name in enumerate("abcd")}}
        import pyarrow as pa

        pq.write_table(pa.table(wide), numbers)
        refused = run_cli("run", write_job(numbers, sink, model=model, **columns, **table))
        assert refused[0] == 2
        assert "is a pickle" in refused[2]
        code, _, err = run_cli(
            "run", write_job(numbers, sink, model={**model, "allow_pickle": True}, **columns, **table)
        )
        assert code == 0, err
        answers = np.array([row["y"] for row in read_rows(sink)])
        np.testing.assert_allclose(answers[:, 0], rows.sum(axis=1), atol=1e-5)
        np.testing.assert_allclose(answers[:, 1], rows.sum(axis=1) + 1, atol=1e-5)


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(WIDTH, 3)
        self.register_buffer("shift", torch.ones(3))
        self.scale = torch.tensor([1.0, 2.0, 3.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.shift * self.scale


class Pooled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.embedding(ids)
        return torch.cat([x, x], 1).mean(1), x.reshape(x.shape[0], -1)[:, 1 : x.shape[1]].sum(1)


class Convolved(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = torch.nn.functional.gelu(self.conv(x), approximate="tanh")
        y = y.masked_fill(y > 9, -float("inf")).softmax(1)
        return {"sum": torch.einsum("nchw->nc", y), "largest": y.amax((1, 2, 3))}


class Branching(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))


class Bert(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
        self.bert = BertModel(config)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.mean(1)


def _exported(name: str) -> tuple[torch.nn.Module, tuple[Any, ...], Any]:
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("length", min=3, max=512)
    ids, tokens = torch.randint(0, 10, (2, 6)), torch.ones(2, 7, dtype=torch.long)
    auto = torch.export.Dim.AUTO
    return {
        "linear": (Linear(), (torch.randn(2, WIDTH),), ({0: batch},)),
        "dynamic": (Linear(), (torch.randn(2, WIDTH),), ({0: torch.export.Dim.DYNAMIC},)),
        "bf16": (Linear().bfloat16(), (torch.randn(2, WIDTH, dtype=torch.bfloat16),), ({0: batch},)),
        "lengths": (Pooled(), (ids,), ({0: batch, 1: length},)),
        "derived": (Pooled(), (ids,), ({0: batch, 1: 2 * torch.export.Dim("half", min=2, max=256)},)),
        "images": (Convolved(), (torch.randn(2, 3, 9, 10),), ({0: batch, 2: auto, 3: auto},)),
        "branches": (Branching(), (torch.randn(2, WIDTH),), ({0: batch},)),
        "bert": (Bert(), (tokens, tokens), ({0: batch, 1: length}, {0: batch, 1: length})),
    }[name]


@pytest.mark.parametrize("name", ["linear", "dynamic", "bf16", "lengths", "derived", "images", "branches", "bert"])
def test_what_torch_export_saves_passes_and_loads(name: str, tmp_path: Path) -> None:
    module, given, shapes = _exported(name)
    module = module.eval()
    torch.export.save(torch.export.export(module, given, dynamic_shapes=shapes), tmp_path / "m.pt2")
    check_pt2(tmp_path / "m.pt2")
    found, expected = load_pt2(tmp_path / "m.pt2")(*given), module(*given)
    torch.testing.assert_close(tree_leaves(found), tree_leaves(expected))


MODEL, SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """Return the members of a real archive by name, without the root folder."""
    path = tmp_path_factory.mktemp("honest") / "m.pt2"
    module, given, shapes = _exported("linear")
    torch.export.save(torch.export.export(module.eval(), given, dynamic_shapes=shapes), path)
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def packed(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"m/{name}", content)
    return path


@contextlib.contextmanager
def described(members: Members, name: str) -> Iterator[Any]:
    value = json.loads(members[name])
    yield value
    members[name] = json.dumps(value).encode()


def _code(sprung: Path) -> str:
    return f"__import__('pathlib').Path({str(sprung)!r}).touch()"


def _samples(members: Members, sprung: Path) -> None:
    members[SAMPLES] = saved(Trap(sprung))


def _samples_in_capitals(members: Members, sprung: Path) -> None:
    members[SAMPLES.upper()] = saved(Trap(sprung))
    del members[SAMPLES]


def _samples_in_the_old_format(members: Members, sprung: Path) -> None:
    content = io.BytesIO()
    torch.save(Trap(sprung), content, _use_new_zipfile_serialization=False)
    members[SAMPLES] = content.getvalue()


def _weights(members: Members, sprung: Path) -> None:
    members["data/weights/weight_0"] = saved(Trap(sprung))
    with described(members, WEIGHTS) as weights:
        weights["config"]["linear.weight"]["use_pickle"] = True


def _weights_named_metadata(members: Members, sprung: Path) -> None:
    members["data/weights/weight_9"] = saved(Trap(sprung))
    with described(members, WEIGHTS) as weights:
        weights["config"]["metadata"] = {
            "path_name": "weight_9",
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }


def _opaque_constant(members: Members, sprung: Path) -> None:
    content = pickle.dumps(Trap(sprung))
    members["data/constants/opaque_obj_0"] = content + b" " * (-len(content) % 4)  # read as float32, too
    with described(members, CONSTANTS) as constants:
        constants["config"]["scale"]["path_name"] = "opaque_obj_0"


def _size(members: Members, sprung: Path) -> None:
    with described(members, MODEL) as model:
        values = model["graph_module"]["graph"]["tensor_values"]
        values["x"]["sizes"][0]["as_expr"]["expr_str"] = _code(sprung)


def _guard(members: Members, sprung: Path) -> None:
    with described(members, MODEL) as model:
        model["guards_code"] = [f"{_code(sprung)} is None"]


def _buffer(members: Members, sprung: Path) -> None:
    name = f"shift\", open({str(sprung)!r}, 'w'), \""
    with described(members, WEIGHTS) as weights:
        weights["config"][name] = weights["config"].pop("shift")
    members[MODEL] = members[MODEL].replace(b'"shift"', json.dumps(name).encode())


def _operator(members: Members, sprung: Path) -> None:
    with described(members, MODEL) as model:
        graph = model["graph_module"]["graph"]
        node = {**graph["nodes"][0], "target": "torch.os.mkdir", "name": "made"}
        node["inputs"] = [{"name": "", "arg": {"as_string": str(sprung)}, "kind": 1}]
        node["outputs"] = [{"as_tensor": {"name": "made"}}]
        graph["tensor_values"]["made"] = graph["tensor_values"]["add"]
        graph["nodes"].append(node)


def _name(members: Members, sprung: Path) -> None:
    members[MODEL] = members[MODEL].replace(b'"add"', json.dumps(f"_ = {_code(sprung)}; add").encode())


def _default_factory(members: Members, sprung: Path) -> None:
    (sprung.parent / "imported_by_pt2.py").write_text(_code(sprung))
    context = {"default_factory_module": "imported_by_pt2", "default_factory_name": "x", "dict_context": "[]"}
    with described(members, MODEL) as model:
        call = model["graph_module"]["module_call_graph"][0]["signature"]
        call["out_spec"] = json.dumps([1, {"type": "collections.defaultdict", "context": context, "children_spec": []}])


def _enum(members: Members, sprung: Path) -> None:
    (sprung.parent / "imported_by_pt2.py").write_text(_code(sprung))
    context = json.dumps({"__enum__": True, "fqn": "imported_by_pt2", "name": "x"})
    with described(members, MODEL) as model:
        call = model["graph_module"]["module_call_graph"][0]["signature"]
        call["out_spec"] = json.dumps([1, {"type": "builtins.dict", "context": context, "children_spec": []}])


ATTACKS = [
    _samples, _samples_in_capitals, _samples_in_the_old_format, _weights, _weights_named_metadata, _opaque_constant,
    _size, _guard, _buffer, _default_factory, _enum,
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__[1:].replace("_", " "))
def test_an_archive_that_runs_code_is_refused(
    attack: Callable[[Members, Path], None], honest: Members, tmp_path: Path, sprung: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    members = dict(honest)
    attack(members, sprung)
    archive = packed(tmp_path / "m.pt2", members)
    with contextlib.suppress(Exception):
        torch.export.load(archive).module()(torch.ones(2, WIDTH))
    assert sprung.exists(), "torch itself no longer does this"
    sprung.rmdir() if sprung.is_dir() else sprung.unlink()
    sys.modules.pop("imported_by_pt2", None)

    with pytest.raises(ConfigError, match=r"set model\.allow_pickle: true if you trust"):
        check_pt2(archive)
    assert not sprung.exists()


@pytest.mark.parametrize("attack", [_operator, _name], ids=["operator", "name"])
def test_what_torch_refuses_itself_is_refused_before(
    attack: Callable[[Members, Path], None], honest: Members, tmp_path: Path, sprung: Path
) -> None:
    members = dict(honest)
    attack(members, sprung)
    with pytest.raises(ConfigError, match="that could run code"):
        check_pt2(packed(tmp_path / "m.pt2", members))


def test_an_unchanged_archive_packed_anew_passes(honest: Members, tmp_path: Path) -> None:
    check_pt2(packed(tmp_path / "m.pt2", dict(honest)))


@pytest.mark.parametrize(
    "name",
    ["data/aotinductor/model/x.so", "data/constants/custom_obj_0", "data/weights/../sample_inputs/model.pt", "x"],
)
def test_what_is_neither_graph_nor_tensor_is_refused(name: str, honest: Members, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a graph nor plain tensors"):
        check_pt2(packed(tmp_path / "m.pt2", {**honest, name: b""}))


def test_an_archive_behind_something_else_is_refused(honest: Members, tmp_path: Path) -> None:
    archive = packed(tmp_path / "m.pt2", dict(honest))
    archive.write_bytes(b"before" + archive.read_bytes())
    with pytest.raises(ConfigError, match="can be read in two ways"):
        check_pt2(archive)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_a_name_twice_is_refused(honest: Members, tmp_path: Path) -> None:
    archive = packed(tmp_path / "m.pt2", dict(honest))
    with zipfile.ZipFile(archive, "a") as written:
        written.writestr(f"m/{SAMPLES}", honest[SAMPLES])
    with pytest.raises(ConfigError, match="can be read in two ways"):
        check_pt2(archive)


def test_an_archive_with_a_second_directory_is_refused(honest: Members, tmp_path: Path, sprung: Path) -> None:
    """Python takes the directory before the locator, torch the one that the locator names."""
    evil = {**honest, SAMPLES: saved(Trap(sprung))}
    archive = tmp_path / "m.pt2"
    with zipfile.ZipFile(archive, "w") as written:
        for name, content in honest.items():
            written.writestr(f"m/{name}", content)
        first = list(written.filelist)
        written.NameToInfo.clear()
        for name, content in evil.items():
            written.writestr(f"m/{name}", content)
        second = written.filelist[len(first) :]
        written.filelist = first
    content = archive.read_bytes()[:-22]
    directories = []
    for infos in (second, first):
        with zipfile.ZipFile(io.BytesIO(), "w") as other:
            other.filelist, other._didModify = list(infos), True
            buffer, other.start_dir = other.fp, 0
            other.fp.seek(0)
            other._write_end_record()
            directory = buffer.getvalue()[:-22]
            other._didModify = False
        start = len(content)
        end = struct.pack(
            "<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, len(infos), len(infos), len(directory), start
        )
        content += directory
        directories.append(len(content))
        content += end
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, directories[0], 1)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, len(first), len(first), 0xFFFFFFFF, 0xFFFFFFFF, 0)
    archive.write_bytes(content + locator + last)
    with zipfile.ZipFile(archive) as seen:
        assert seen.read(f"m/{SAMPLES}") == honest[SAMPLES]
    with contextlib.suppress(Exception):
        torch.export.load(archive)
    assert sprung.exists(), "torch itself no longer does this"
    with pytest.raises(ConfigError, match="can be read in two ways"):
        check_pt2(archive)


@pytest.mark.parametrize(
    "text", ["ｅｖａｌ(s0)", "s0.__class__", "Symbol", "Add(s0, open)", "[i for i in s0]", "s0; s1", "(s0:=1)"]
)
def test_only_arithmetic_on_sizes_is_a_size(text: str) -> None:
    from optinfer.models.safety import _is_size

    assert _is_size(text) is (text == "Symbol")
    assert _is_size("Add(FloorDiv(Symbol('s53', positive=True, integer=True), Integer(2)), Integer(-1))")


SECRET = np.arange(WIDTH * 2, dtype=np.float32).reshape(WIDTH, 2)


def onnx_model(folder: Path, location: str, hide: str = "initializer") -> Path:
    """Write a model whose weights lie at `location`, named in the place `hide`."""
    folder.mkdir(exist_ok=True)
    weights = numpy_helper.from_array(SECRET, "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(SECRET.nbytes))):
        weights.external_data.add(key=key, value=value)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    product, constant = (
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Constant", [], ["w"], value=weights),
    )
    opsets, functions, initializers = [helper.make_opsetid("", 20)], [], []
    if hide == "initializer":
        nodes, initializers = [product], [weights]
    elif hide == "constant":
        nodes = [constant, product]
    elif hide == "branch":
        branches = {
            f"{name}_branch": helper.make_graph(inner, name, [], [y], kept)
            for name, inner, kept in (("then", [product], [weights]), ("else", [constant, product], []))
        }
        true = numpy_helper.from_array(np.array(True), "true")
        nodes, initializers = [helper.make_node("If", ["true"], ["y"], **branches)], [true]
    else:
        functions = [helper.make_function("own", "F", ["x"], ["y"], [constant, product], opsets)]
        nodes, opsets = [helper.make_node("F", ["x"], ["y"], domain="own")], [*opsets, helper.make_opsetid("own", 1)]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


class TestExternalWeights:
    @pytest.mark.parametrize("hide", ["initializer", "constant", "branch", "function"])
    @pytest.mark.parametrize("kind", ["parent", "absolute", "missing", "link", "linked folder"])
    def test_weights_from_elsewhere_are_refused(self, kind: str, hide: str, tmp_path: Path) -> None:
        secret, folder = tmp_path / "secret" / "w.bin", tmp_path / "model"
        secret.parent.mkdir()
        secret.write_bytes(SECRET.tobytes())
        folder.mkdir()
        (folder / "link").symlink_to(secret)
        (folder / "sub").symlink_to(secret.parent)
        location = {
            "parent": "../secret/w.bin", "absolute": str(secret), "missing": "none.bin", "link": "link",
            "linked folder": "sub/w.bin",
        }[kind]  # fmt: skip
        secret.chmod(0)
        with pytest.raises(ConfigError, match="takes weights from") as refused:
            check_onnx(onnx_model(folder, location, hide))
        assert location in str(refused.value)

    @pytest.mark.parametrize("hide", ["initializer", "constant", "branch", "function"])
    def test_weights_beside_the_model_are_found_wherever_they_are_named(self, hide: str, tmp_path: Path) -> None:
        model = onnx_model(tmp_path / "model", "w.bin", hide)
        (model.parent / "w.bin").write_bytes(SECRET.tobytes())
        assert check_onnx(model) == [model.parent / "w.bin"]

    def test_a_compiled_engine_is_refused(self, tmp_path: Path) -> None:
        node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="engine")
        value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
        onnx.save(helper.make_model(helper.make_graph([node], "g", value[:1], value[1:])), str(tmp_path / "m.onnx"))
        with pytest.raises(ConfigError, match="compiled engine"):
            check_onnx(tmp_path / "m.onnx")

    def test_a_job_refuses_them_before_anything_is_read(
        self, run_cli: RunCli, write_job: Any, sink: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_bytes(SECRET.tobytes())
        model = onnx_model(tmp_path / "model", "../secret", "branch")
        job = write_job("/nowhere.parquet", sink, model={"path": str(model), "family": "tensor"})
        code, _, err = run_cli("run", job)
        assert code == 2
        assert "outside its folder: refused" in err

    @pytest.mark.usefixtures("without_ray")
    def test_a_job_scores_with_weights_beside_its_model(
        self, run_cli: RunCli, write_job: Any, numbers: Path, sink: Path, tmp_path: Path
    ) -> None:
        model = onnx_model(tmp_path / "model", "w.bin")
        (model.parent / "w.bin").write_bytes(SECRET.tobytes())
        whole = onnx.load(str(model))
        (model.parent / "w.bin").unlink()
        onnx.save_model(whole, str(model), save_as_external_data=True, location="weights.data", size_threshold=0)
        assert (model.parent / "weights.data").stat().st_size >= SECRET.nbytes
        job = write_job(
            numbers, sink, model={"path": str(model), "family": "tensor"}, source__columns={"x": "x"},
            variant="onnx-fp32", gate={"min": 0.99, "sample_rows": 8},
        )  # fmt: skip
        code, _, err = run_cli("run", job)
        assert code == 0, err
        rows = np.array([row["y"] for row in read_rows(sink)])
        assert rows.shape == (40, 2)


class TestOwnCode:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.chdir(tmp_path)

    def test_a_class_of_the_working_directory_is_found(self, tmp_path: Path) -> None:
        (tmp_path / "own_code_a.py").write_text("class Scorer: pass\n")
        assert plugins.load_class("own_code_a:Scorer").__name__ == "Scorer"
        assert plugins.code_of("own_code_a:Scorer") == tmp_path / "own_code_a.py"

    def test_a_class_that_is_not_there_is_refused_with_the_nearest(self, tmp_path: Path) -> None:
        (tmp_path / "own_code_b.py").write_text("class Scorer: pass\n")
        with pytest.raises(ConfigError, match="own_code_b has no class 'Scorrer'; did you mean 'Scorer'"):
            plugins.load_class("own_code_b:Scorrer")

    @pytest.mark.parametrize("find", [plugins.load_class, plugins.code_of])
    @pytest.mark.parametrize("spec", ["nowhere_at_all:A", "own_broken.inner:A"])
    def test_a_module_that_cannot_be_found_is_refused(self, find: Any, spec: str, tmp_path: Path) -> None:
        (tmp_path / "own_broken").mkdir()
        (tmp_path / "own_broken" / "__init__.py").write_text("raise RuntimeError('broken')")
        with pytest.raises(ConfigError, match="start the job where"):
            find(spec)

    def test_a_module_without_a_file_is_no_own_code(self) -> None:
        with pytest.raises(ConfigError, match="there is no module sys"):
            plugins.code_of("sys:A")

    def test_a_syntax_error_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "own_code_c.py").write_text("class Scorer(:\n")
        with pytest.raises(ConfigError, match="own_code_c cannot be imported: SyntaxError"):
            plugins.load_class("own_code_c:Scorer")
        assert plugins.code_of("own_code_c:Scorer") == tmp_path / "own_code_c.py"
