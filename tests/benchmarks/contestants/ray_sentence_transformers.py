"""Ray Data and sentence-transformers in fp32, batches of 512, which `encode` sorts by length and cuts into its own 32.

Usage: python -m contestants.ray_sentence_transformers SOURCE OUTPUT MODEL MAX_LENGTH
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from contestants._ray_data import embed

BATCH_SIZE = 512

Batch = dict[str, np.ndarray[Any, Any]]


class Embedder:
    def __init__(self, model: str, max_length: int, threads: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        self._model = SentenceTransformer(model, device="cpu")
        self._model.max_seq_length = max_length

    def __call__(self, batch: Batch) -> Batch:
        vectors = self._model.encode(batch["text"].tolist(), show_progress_bar=False)
        return {"id": batch["id"], "embedding": vectors}


if __name__ == "__main__":
    source, output, model, max_length = sys.argv[1:]
    embed(source, output, Embedder, model, int(max_length), BATCH_SIZE)
