"""What every conformance test shares: tiny models are fastest on one thread, and libraries that say nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    from optinfer.system.quiet import muted

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with muted():
        yield
    torch.set_num_threads(threads)
