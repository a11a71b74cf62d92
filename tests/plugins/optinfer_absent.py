"""A backend whose runtime is not installed anywhere."""

from __future__ import annotations

from typing import NoReturn

from optinfer.backends import Backend


def load(*_: object) -> NoReturn:
    raise AssertionError("it is not available")


backend = Backend(formats=("torch", "onnx"), max_batch_tokens={"cpu": 1}, requires=("no_such_runtime",), load=load)
