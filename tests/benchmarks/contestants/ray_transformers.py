"""Ray Data and transformers in fp32, batches of 32, padded to the longest of each: what a first version looks like.

Usage: python -m contestants.ray_transformers SOURCE OUTPUT MODEL MAX_LENGTH
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from contestants._ray_data import embed

BATCH_SIZE = 32

Batch = dict[str, np.ndarray[Any, Any]]


class Embedder:
    def __init__(self, model: str, max_length: int, threads: int) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(threads)
        self._max_length = max_length
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._model = AutoModel.from_pretrained(model, dtype=torch.float32).eval()

    def __call__(self, batch: Batch) -> Batch:
        import torch

        inputs = self._tokenizer(
            batch["text"].tolist(), padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        )
        with torch.inference_mode():
            tokens = self._model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            vectors = (tokens * mask).sum(dim=1) / mask.sum(dim=1)
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return {"id": batch["id"], "embedding": vectors.numpy()}


if __name__ == "__main__":
    source, output, model, max_length = sys.argv[1:]
    embed(source, output, Embedder, model, int(max_length), BATCH_SIZE)
