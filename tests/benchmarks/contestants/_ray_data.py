"""The naive job that both Ray Data contestants are: read Parquet, map batches through one actor, write Parquet.

As Ray's batch inference guide shows it. The actor computes with all CPUs but books one less: listing, reading and
writing wait for a whole CPU each, and with none left Ray Data hangs without a word.
"""

from __future__ import annotations

import logging
import os


def embed(source: str, output: str, embedder: type, model: str, max_length: int, batch_size: int) -> None:
    """Write `id` and `embedding` for every row of `source` (columns `id` and `text`)."""
    import ray

    cpus = os.cpu_count() or 1
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    (
        ray.data.read_parquet(source)
        .map_batches(
            embedder,
            fn_constructor_kwargs={"model": model, "max_length": max_length, "threads": cpus},
            batch_size=batch_size,
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=cpus - 1,
        )
        .write_parquet(output)
    )
    ray.shutdown()
