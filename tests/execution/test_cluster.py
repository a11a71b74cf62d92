"""Jobs on real clusters: any number of CPUs, several nodes, nodes that come and go, nodes that have something special.

A process of its own runs the scenarios (see scenarios.py), so that the clusters do not meet the tests' shared Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer.system.machine import VNNI, cpu_features
from tests.conftest import MODEL, REPO, MakeJob, WriteTable
from tests.execution.scenarios import FRAGMENT_ROWS, ROWS, content, digest
from tests.inference.test_canaries import NUMBERS, tensor_model
from tests.other_nodes import cpu_without, without_folders

# The first test of a suite waits for all of its scenarios.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

# Of one scenario: what it waits for itself it gives 260.
_HANGS_AFTER_SECONDS = 300
Said = dict[str, Any]


def perform(folder: Path, suite: str) -> dict[str, Said]:
    """Run a suite of scenarios; one that hangs is killed and told as an error, those before it count."""
    command = [sys.executable, "-m", "tests.execution.scenarios", str(folder), suite]
    process = subprocess.Popen(
        command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    heard: queue.Queue[str] = queue.Queue()
    assert process.stdout
    threading.Thread(target=lambda: [*map(heard.put, process.stdout), heard.put("")], daemon=True).start()
    said, lines, fate, until = dict[str, Said](), list[str](), "ended", time.monotonic() + _HANGS_AFTER_SECONDS
    while True:
        try:
            line = heard.get(timeout=max(until - time.monotonic(), 0.0))
        except queue.Empty:
            os.killpg(process.pid, signal.SIGKILL)
            fate = f"was killed, as no scenario ended for {_HANGS_AFTER_SECONDS} s"
            break
        if not line:
            break
        lines.append(line)
        with contextlib.suppress(ValueError):
            if isinstance(found := json.loads(line), dict) and "scenario" in found:
                said[found.pop("scenario")] = found
                until = time.monotonic() + _HANGS_AFTER_SECONDS
    process.wait()
    said[""] = {"error": f"the process {fate}\n{''.join(lines)[-4000:]}"}
    return said


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    return perform(tmp_path_factory.mktemp("sizes"), "sizes")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    return perform(tmp_path_factory.mktemp("nodes"), "nodes")


@pytest.fixture
def alone(
    tmp_path: Path, make_job: MakeJob, write_table: WriteTable, fake_variant: str, without_ray: None
) -> Callable[..., str]:
    """Return a function that scores the same table in this process and identifies the rows."""

    def score(**changes: Any) -> str:
        source = write_table(tmp_path / "table.parquet", rows=ROWS)
        optinfer.run(make_job(source, tmp_path / "alone", **{"source__fragment_rows": FRAGMENT_ROWS, **changes}))
        return digest(tmp_path / "alone")

    return score


def done(said: dict[str, Said], scenario: str) -> Said:
    """Return what came of a scenario, once it is sure that the job scored every row once."""
    found = said.get(scenario, said[""])
    assert "error" not in found, found["error"]
    assert "refused" not in found, found["message"]
    assert (found["status"], found["rows_in"], found["rows_out"]) == ("done", ROWS, ROWS)
    assert sum(found["rows_by_node"].values()) == ROWS - FRAGMENT_ROWS * found["fragments_resumed"]
    return found


def scored_by(found: Said) -> set[str]:
    """Return the names of the nodes that scored rows."""
    names = {node: name for name, node in found["nodes"].items()}
    return {names[node.rpartition("/")[2]] for node in found["rows_by_node"]}


@pytest.mark.cluster
@pytest.mark.parametrize("cpus", [1, 2, 3, 4])
def test_a_job_whose_replicas_take_every_cpu_ends(sizes: dict[str, Said], cpus: int, alone: Callable[..., str]) -> None:
    found = done(sizes, f"size {cpus}")
    assert found["placement"]["replicas"] == cpus
    assert found["digest"] == alone()


@pytest.mark.cluster
@pytest.mark.parametrize("cpus", [1, 2, 3, 4])
def test_a_replica_too_many_is_refused_with_the_numbers(sizes: dict[str, Said], cpus: int) -> None:
    refused = done(sizes, f"size {cpus}")["too_many"]
    assert refused["refused"] == "PlacementError"
    assert f"{cpus + 1} replicas of 1 threads do not fit: {cpus} free CPUs hold {cpus}" in refused["message"]


@pytest.mark.cluster
def test_the_next_variant_takes_over_on_the_ray_that_was_started_for_the_first(tmp_path: Path) -> None:
    assert done(perform(tmp_path, "own"), "fallback")["variant"] == "fake"


@pytest.mark.cluster
def test_every_node_scores_and_the_rows_are_those_of_one_process(
    nodes: dict[str, Said], alone: Callable[..., str]
) -> None:
    found = done(nodes, "several")
    assert scored_by(found) == {"head", "second"}
    assert found["digest"] == alone()


@pytest.mark.cluster
def test_a_real_model_gives_the_same_bits_on_two_nodes_as_in_one_process(
    nodes: dict[str, Said], alone: Callable[..., str]
) -> None:
    found = done(nodes, "several_real")
    assert found["digest"] == alone(
        model__path=MODEL,
        variant="onnx-fp32",
        gate={"min": 0.9, "sample_rows": 8},
        placement={"threads_per_replica": 1},
    )


@pytest.mark.cluster
def test_a_node_that_joins_gets_work(nodes: dict[str, Said], alone: Callable[..., str]) -> None:
    found = done(nodes, "joins")
    assert scored_by(found) == {"head", "second", "third"}
    assert (found["placement"]["replicas"], found["digest"]) == (2, alone())


@pytest.mark.cluster
def test_a_node_that_leaves_takes_no_row_with_it_and_none_is_scored_twice(
    nodes: dict[str, Said], alone: Callable[..., str]
) -> None:
    found = done(nodes, "leaves")
    assert scored_by(found) >= {"head", "third"}
    assert (found["placement"]["replicas"], found["digest"]) == (3, alone())


@pytest.mark.cluster
def test_replicas_run_only_where_their_custom_resource_is(nodes: dict[str, Said]) -> None:
    found = done(nodes, "jetson")
    assert scored_by(found) == {"second"}
    assert found["placement"]["replicas"] == 1


@pytest.mark.cluster
def test_replicas_run_only_where_their_accelerator_is(nodes: dict[str, Said]) -> None:
    found = done(nodes, "accelerator")
    assert scored_by(found) == {"third"}
    assert found["placement"]["replicas"] == 1


@pytest.fixture(scope="module")
def drained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    return perform(tmp_path_factory.mktemp("drained"), "drained")


@pytest.mark.cluster
@pytest.mark.parametrize(("told", "takes"), [("without_room", "head"), ("with_room", "third")])
def test_a_node_that_is_told_to_leave_gives_its_fragments_back_and_costs_one_fragment_at_most(
    drained: dict[str, Said], alone: Callable[..., str], told: str, takes: str
) -> None:
    found = done(drained, told)
    assert found["digest"] == alone()
    assert found["taken_over"].keys() == {"left"}, "told apart from a node that was lost, and from a replica that died"
    left = found["taken_over"]["left"]
    assert left["fragments"] <= 2, "the one in the model, and the one that was read meanwhile"
    assert left["rows_scored_twice"] == found["rows_given"] - ROWS, "as the models counted"
    assert 0 < left["rows_scored_twice"] < FRAGMENT_ROWS
    nodes = {node: name for name, node in found["nodes"].items()}
    assert [nodes[one["node"]] for one in found["taken"]] == [takes] * left["fragments"]
    print({**left, "after": [round(one["after"], 1) for one in found["taken"]]})  # for docs/jobs.md


@pytest.mark.cluster
@pytest.mark.skipif(not set(VNNI) & set(cpu_features()), reason="this CPU has no VNNI that a node could lack")
def test_a_job_goes_on_without_a_node_of_another_kind_that_comes_in_the_middle(tmp_path: Path) -> None:
    cpu_without(tmp_path, *VNNI)  # skips where that cannot be told to a node
    found = done(perform(tmp_path, "late"), "another_kind")
    assert scored_by(found) == {"head"}
    (why,) = found["warnings"]
    assert re.match(r"left out: node \S+ does not score with faulty: it was certified on a CPU with", why), why
    assert "this one has none: its int8 answers differ" in why


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    return perform(tmp_path_factory.mktemp("mixed"), "mixed")


@pytest.mark.cluster
def test_a_node_with_a_gpu_and_one_without_score_one_table_with_a_variant_each(
    mixed: dict[str, Said], alone: Callable[..., str]
) -> None:
    found = done(mixed, "both")
    assert scored_by(found) == {"head", "second"}
    rows = {node.rpartition("/")[2]: count for node, count in found["rows_by_node"].items()}
    assert found["rows_by_variant"] == {
        "faulty-cuda": rows[found["nodes"]["head"]],
        "faulty": rows[found["nodes"]["second"]],
    }, "the second stays off the node with the GPU, though that has CPUs to spare"
    assert (found["placement"]["replicas"], found["placement"]["beside"]["replicas"]) == (1, 2)
    assert found["digest"] == alone()


@pytest.mark.cluster
def test_an_output_of_two_variants_is_resumed_on_such_nodes(mixed: dict[str, Said], alone: Callable[..., str]) -> None:
    found = done(mixed, "resumed")
    assert found["fragments_resumed"] == 6
    assert sum(found["rows_by_variant"].values()) == ROWS
    assert found["digest"] == alone()


@pytest.mark.cluster
def test_the_nodes_without_a_gpu_may_all_leave(mixed: dict[str, Said], alone: Callable[..., str]) -> None:
    found = done(mixed, "cpus_leave")
    assert "head" in scored_by(found)
    assert found["digest"] == alone()


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    return perform(tmp_path_factory.mktemp("taken"), "taken")


@pytest.mark.cluster
def test_a_job_in_which_no_replica_can_start_ends_with_what_it_needs(taken: dict[str, Said]) -> None:
    found = taken.get("stuck", taken[""])
    assert "error" not in found, found["error"]
    assert "nothing can move: for 5 s no replica lived, and no node was on its way" in found["message"]
    assert "3 nodes have 0 CPUs and 0 GPUs free" in found["message"]


@pytest.mark.cluster
@pytest.mark.skipif(not set(VNNI) & set(cpu_features()), reason="this CPU has no VNNI that a node could lack")
def test_int8_is_proved_on_the_nodes_that_score_and_others_are_left_out_or_have_their_own(tmp_path: Path) -> None:
    cpu_without(tmp_path, *VNNI)  # skips where that cannot be told to a node
    said = perform(tmp_path, "cpus")
    found, theirs = (said.get(name, said[""]) for name in ("left_out", "theirs"))
    for one in (found, theirs):
        assert "error" not in one, one["error"]
        assert (one["rows_out"], one["nodes"]) == (len(NUMBERS), 1)
    (why,) = [line for line in found["warnings"] if line.startswith("left out: ")]
    assert "would not score with onnx-int8-qdq: it was certified on a CPU with" in why
    assert "this one has none: its int8 answers differ" in why
    assert not [line for line in theirs["warnings"] if "left out" in line]
    assert found["artifact"] != theirs["artifact"], "made for the CPU that scores"


ALIKE = ["onnx-fp32", "onnx-int8-qdq", "onnx-int8-dynamic"]


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    folder = tmp_path_factory.mktemp("alike")
    without_folders(folder)  # skips where that cannot be
    return perform(folder, "alike")


def said_of(found: dict[str, Said], scenario: str) -> Said:
    """Return what a scenario said, once it is sure that it ended."""
    said = found.get(scenario, found[""])
    assert "error" not in said, said["error"]
    return said


@pytest.mark.cluster
def test_a_job_that_no_node_can_prove_ends_with_what_it_needs(alike: dict[str, Said]) -> None:
    said = said_of(alike, "nobody")
    assert "nothing can move: for 3 s no node began with it, and no node was on its way" in said["message"]
    assert "The job needs 1 CPU; 1 nodes have 0 CPUs and 0 GPUs free" in said["message"]
    assert "proving on the first node that is free for it" in said["lines"]


@pytest.mark.cluster
def test_nodes_that_are_alike_share_the_candidates(alike: dict[str, Said]) -> None:
    said = said_of(alike, "compared")
    assert set(said["passed"]) == set(ALIKE)
    assert "proving 3 variants on 2 nodes that are alike" in said["lines"]
    assert min(said["proved"]) >= 1, "both nodes proved"
    measured = [line.partition(":")[0] for line in said["lines"] if " rows/s, " in line]
    assert measured == ALIKE, "in the order in which one node would have tried them"


@pytest.mark.cluster
def test_the_fastest_of_all_nodes_scores_and_each_node_is_asked_once_what_it_is(alike: dict[str, Said]) -> None:
    said = said_of(alike, "chosen")
    assert said["variant"] in ALIKE
    assert said["rows_out"] == len(NUMBERS)
    others = {line.split()[1].rstrip(":") for line in said["lines"] if line.startswith("not ")}
    assert others == {*ALIKE} - {said["variant"]}
    assert len(said["asked"]) == len(set(said["asked"])) == 3, "the head, too"


@pytest.mark.cluster
def test_settings_are_tried_where_they_will_score_and_kept_where_the_search_was_started(
    alike: dict[str, Said],
) -> None:
    said = said_of(alike, "tuned")
    node = said["winner"]["node"]
    assert said["winner"]["variant"] == said["variant"] == "onnx-int8-qdq"
    assert (node["cpus"], node["cpu_features"]) == (2, cpu_features()), "what Ray shares there, not what the head has"
    assert any("won `optinfer tune`" in line for line in said["lines"] if line.startswith("not onnx-fp32"))
    kept = {name.partition("/")[0] for name in said["own"]}
    assert {"tuned", "studies"} <= kept
    assert not kept & {"artifacts", "certificates", "baselines"}, "the head proves nothing"
    assert not [name for names in said["homes"] for name in names if name.startswith(("tuned/", "studies/"))]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    return perform(tmp_path_factory.mktemp("elsewhere"), "elsewhere")


@pytest.mark.cluster
def test_a_job_on_a_cluster_without_a_node_is_proved_and_scored_on_the_first_that_comes(
    elsewhere: dict[str, Said],
) -> None:
    found = elsewhere.get("comes", elsewhere[""])
    assert "error" not in found, found["error"]
    assert found["rows_out"] == ROWS


@pytest.mark.cluster
def test_a_proof_whose_process_dies_is_made_on_the_next_node(
    elsewhere: dict[str, Said], alone: Callable[..., str]
) -> None:
    found = done(elsewhere, "dies")
    assert found["died"]
    assert found["digest"] == alone()


@pytest.mark.cluster
def test_a_gate_that_nothing_passes_elsewhere_is_told_as_it_would_be_here(elsewhere: dict[str, Said]) -> None:
    refused = elsewhere.get("refused", elsewhere[""])
    assert refused.get("refused") == "GateError", refused
    assert "no variant passes the gate, nothing was scored:\n  fake: cosine" in refused["message"]


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    folder = tmp_path_factory.mktemp("apart")
    without_folders(folder)  # skips where that cannot be
    return perform(folder, "apart")


@pytest.mark.cluster
def test_nodes_without_a_shared_disk_fetch_what_they_lack_once_and_answer_as_one_process(
    apart: dict[str, Said], tmp_path: Path, make_job: MakeJob, without_ray: None
) -> None:
    found = apart.get("travels", apart[""])
    assert "error" not in found, found["error"]
    tensor_model(tmp_path / "model")
    numbers = {"id": [str(i) for i in range(len(NUMBERS))], "x": pa.array(NUMBERS.tolist(), pa.list_(pa.float32()))}
    pq.write_table(pa.table(numbers), tmp_path / "table.parquet")
    for variant, said in found["variants"].items():
        job = make_job(
            tmp_path / "table.parquet",
            tmp_path / variant,
            source__columns={"x": "x"},
            source__fragment_rows=max(1, len(NUMBERS) // 8),
            model={"path": str(tmp_path / "model" / "model.onnx"), "family": "tensor"},
            variant=variant,
            gate={"min": 0.9, "sample_rows": 8},
            placement={"threads_per_replica": 1},
        )
        optinfer.run(job)
        assert (said["rows_out"], said["content"]) == (len(NUMBERS), content(tmp_path / variant))
        assert said["nodes"] >= 2, "a replica that loads last may find nothing left"
    for names in found["homes"]:
        fetched = [name for name in names if name.startswith("fetched/")]
        assert not [name for name in fetched if ".coming" in name]
    assert max(onnx(names, "fetched/") for names in found["homes"]) == 2, "the model, and what int8 made of it, once"


def onnx(names: list[str], below: str) -> int:
    """Return the models among the names of files."""
    return len([name for name in names if name.startswith(below) and name.endswith(".onnx")])


@pytest.mark.cluster
def test_a_head_that_scores_nothing_proves_nothing(apart: dict[str, Said]) -> None:
    found = apart.get("travels", apart[""])
    assert "error" not in found, found["error"]
    proved = [names for names in found["homes"] if any(name.startswith("certificates/") for name in names)]
    assert len(proved) == 1
    assert onnx(proved[0], "artifacts/") == 1
    kept = {name.partition("/")[0] for name in found["own"]}
    assert not kept & {"artifacts", "certificates", "baselines"}
    assert onnx(found["own"], "fetched/") == 1, "what int8 made, for the nodes that score"


@pytest.mark.cluster
def test_variants_are_compared_where_they_would_score(apart: dict[str, Said]) -> None:
    found = apart.get("compared", apart[""])
    assert "error" not in found, found["error"]
    assert found["passed"] == {"onnx-fp32": True, "onnx-int8-qdq": True}
    assert not [name for name in found["own"] if name.startswith(("artifacts/", "certificates/", "baselines/"))]


@pytest.mark.cluster
def test_what_is_gone_where_it_was_proved_is_said_by_node_and_folder(apart: dict[str, Said]) -> None:
    found = apart.get("gone", apart[""])
    assert "error" not in found, found["error"]
    assert "cannot fetch it from node " in found["message"]
    assert "No such file or directory" in found["message"]
    assert "storage that all nodes share" in found["message"]
