"""A run that holds an output and waits until its stdin ends (see test_lease.py).

Usage: python -m tests.data.holding URL; exits as `optinfer run` would.
"""

from __future__ import annotations

import sys

from optinfer.data.lock import RunLock
from optinfer.data.storage import Folder
from optinfer.errors import OutputConflictError


def main(url: str) -> None:
    try:
        with RunLock(Folder(url), beat_seconds=0.05) as lock, lock.ending_what_waits():
            print("held", flush=True)
            sys.stdin.read()
    except OutputConflictError as error:
        print(error, flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1])
