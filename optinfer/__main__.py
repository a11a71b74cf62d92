"""The program: `optinfer`, and `python -m optinfer`."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from typing import NoReturn

from optinfer.cli import main


def program() -> NoReturn:
    """Run the command line and end the process.

    Taking Ray, MLflow and pyarrow down object by object takes Python one to two seconds, for nothing: what has to be
    done at the end is registered with atexit, and is done.
    """
    code = 1
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    atexit._run_exitfuncs()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads it any more
            code = code or 1
    os._exit(code)


if __name__ == "__main__":
    program()
