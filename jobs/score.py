"""Entry point for a Ray cluster: `ray job submit --working-dir . -- python jobs/score.py JOB.yaml [options]`.

The same as `optinfer run`; a submitted working directory brings the package but not its installed command.
"""

import sys
from pathlib import Path

# Python puts this file's folder on the path, not the working directory that holds the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from optinfer.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
