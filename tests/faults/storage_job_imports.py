"""What a command of a small job imports, for the process that others are forked from; nothing here starts a thread."""

import mlflow  # noqa: F401
import onnx  # noqa: F401
import s3fs  # noqa: F401
import tokenizers  # noqa: F401

import optinfer.cli.run
import optinfer.commands.run
import optinfer.execution.in_process  # noqa: F401
