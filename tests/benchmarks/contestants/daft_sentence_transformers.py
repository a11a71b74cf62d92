"""Daft's own engine (no Ray) and sentence-transformers in fp32: a class UDF with a batch method, as Daft's guides show.

One instance, in Daft's own process, computing with all CPUs: a second process would load a second model and share the
same CPUs. Batches of 512 rows, which `encode` sorts by length and cuts into its own 32, as for the Ray Data contestant.

Usage: python -m contestants.daft_sentence_transformers SOURCE OUTPUT MODEL MAX_LENGTH
"""

from __future__ import annotations

import os
import sys
from typing import Any

BATCH_SIZE = 512


def embed(source: str, output: str, model: str, max_length: int) -> None:
    """Write `id` and `embedding` for every row of `source` (columns `id` and `text`)."""
    import daft

    daft.set_runner_native()

    @daft.cls(max_concurrency=1, use_process=False)
    class Embedder:
        def __init__(self) -> None:
            import torch
            from sentence_transformers import SentenceTransformer

            torch.set_num_threads(os.cpu_count() or 1)
            self._model = SentenceTransformer(model, device="cpu")
            self._model.max_seq_length = max_length

        @daft.method.batch(return_dtype=daft.DataType.list(daft.DataType.float32()), batch_size=BATCH_SIZE)
        def __call__(self, texts: daft.Series) -> Any:
            return self._model.encode(texts.to_pylist(), show_progress_bar=False)

    table = daft.read_parquet(source)
    table.select(table["id"], Embedder()(table["text"]).alias("embedding")).write_parquet(output)


if __name__ == "__main__":
    source, output, model, max_length = sys.argv[1:]
    embed(source, output, model, int(max_length))
