"""Make the outputs that tests/faults/test_outputs_before.py goes on with, by the version of before.

Usage: python tests/outputs_before/make.py CHECKOUT, where CHECKOUT holds commit ea45479. Everything is made by that
version's own command line on real Ray, in a folder that is called /proc/self/cwd by every process in it: no path of
this machine gets into a fingerprint or a manifest. A driver is killed half way while its replicas wait.

Kept: the files as they lay there, and when each was written, which git does not keep (`stamps.json`). Of S3 the objects
are kept: their ETag, which is all that is told of their version, follows from their bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
BUCKET = "outputs-before"
ROWS = 48
# Of `ROWS`, these cannot be scored.
NULL = (5, 30)
WORKSHOP = Path(tempfile.gettempdir(), "outputs-before")
POOLS = ("variant=there", "placement.cpu_variant=here")


def make_inputs(folder: Path) -> None:
    """Write the table and the model."""
    weights = (np.arange(12, dtype=np.float32).reshape(4, 3) - 5) / 8
    of = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "outputs-before",
        [onnx.helper.make_tensor_value_info("x", of, ["rows", 4])],
        [onnx.helper.make_tensor_value_info("y", of, ["rows", 3])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), folder / "model.onnx")
    x = [None if row in NULL else [float(row + i) for i in range(4)] for row in range(ROWS)]
    columns = {"id": pa.array(range(ROWS), pa.int64()), "x": pa.array(x, pa.list_(pa.float32()))}
    pq.write_table(pa.table(columns), folder / "table.parquet")


def score(*changes: str, address: str = "local") -> subprocess.Popen[bytes]:
    """Start the driver of a job."""
    changed = [word for change in changes for word in ("--set", change)]
    return subprocess.Popen([sys.executable, "-m", "optinfer", "run", "job.yaml", "--address", address, *changed])


def finish(*changes: str, address: str = "local") -> None:
    if code := score(*changes, address=address).wait():
        raise SystemExit(f"the job ended with {code}")


def kill_half_way(parts: Callable[[], int], *changes: str, address: str = "local") -> None:
    """Let each replica score two micro-batches and kill the driver, as the kernel would."""
    before = parts()
    Path("hold").write_text("2")
    driver = score(*changes, address=address)
    while parts() < before + 3:
        if driver.poll() is not None:
            raise SystemExit(f"the job ended with {driver.returncode}")
        time.sleep(0.1)
    time.sleep(5)  # the other replica loads, and what was scored is committed
    driver.kill()
    driver.wait()
    time.sleep(10)  # Ray ends the replicas, which wait
    Path("hold").unlink()


def local_parts() -> int:
    return len(list(Path("out").glob("part-*.parquet")))


def keep(name: str, stamps: dict[str, int]) -> None:
    """Move what the job left into the repository."""
    for path in sorted(path for path in Path("out").rglob("*") if path.is_file()):
        stamps[f"{name}/{path.relative_to('out')}"] = path.stat().st_mtime_ns
    shutil.rmtree(HERE / name, ignore_errors=True)
    shutil.move("out", HERE / name)


def make_local(stamps: dict[str, int]) -> None:
    """Make an output whose driver was killed twice, so that some parts have an account, and a finished one."""
    kill_half_way(local_parts)
    kill_half_way(local_parts)
    keep("unfinished", stamps)
    finish()
    keep("finished", stamps)


def make_pools(stamps: dict[str, int]) -> None:
    """Make outputs of two variants, on a cluster whose first node has a GPU as far as Ray is told."""
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 128 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1, **store})
    cluster.add_node(num_cpus=1, **store)
    kill_half_way(local_parts, *POOLS, address=cluster.address)
    keep("unfinished-pools", stamps)
    Path("hold").write_text("2")
    driver = score(*POOLS, address=cluster.address)
    while local_parts() < 4:  # by now both have scored
        time.sleep(0.1)
    time.sleep(5)
    Path("hold").unlink()
    if driver.wait():
        raise SystemExit("the job failed")
    keep("finished-pools", stamps)
    cluster.shutdown()


@contextmanager
def store() -> Iterator[Callable[[str], dict[str, bytes]]]:
    """Serve S3, with the table in it; give a function that returns all objects below a prefix."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    client.upload_file("table.parquet", BUCKET, "table.parquet")

    def objects(prefix: str) -> dict[str, bytes]:
        found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return {one["Key"]: client.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read() for one in found}

    yield objects
    server.stop()


def make_on_s3() -> None:
    with store() as objects:
        source = f"source.path=s3://{BUCKET}/table.parquet"
        for name in ("unfinished", "finished"):
            changes = (source, f"sink.path=s3://{BUCKET}/{name}")
            if name == "unfinished":
                kill_half_way(lambda: len(objects("unfinished/part-")), *changes)
            else:
                finish(*changes)
            shutil.rmtree(HERE / f"{name}-s3", ignore_errors=True)
            for key, content in objects(f"{name}/").items():
                path = HERE / f"{name}-s3" / key.removeprefix(f"{name}/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


def main(checkout: str) -> None:
    shutil.rmtree(WORKSHOP, ignore_errors=True)
    WORKSHOP.mkdir()
    os.chdir(WORKSHOP)
    os.environ |= {
        "PYTHONPATH": f"{HERE / 'plugin'}{os.pathsep}{Path(checkout).resolve()}",
        "OPTINFER_HOME": "/proc/self/cwd/home",
        "STAND_IN_HOLD": "/proc/self/cwd",
    }
    shutil.copy2(HERE / "job.yaml", "job.yaml")
    make_inputs(WORKSHOP)
    stamps = {"table.parquet": Path("table.parquet").stat().st_mtime_ns}
    make_local(stamps)
    make_pools(stamps)
    make_on_s3()
    for name in ("table.parquet", "model.onnx"):
        shutil.copy2(name, HERE / name)
    (HERE / "stamps.json").write_text(json.dumps(stamps, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
