"""Who is measured, one file each, run as `python -m contestants.NAME` in a fresh process; optinfer is its own CLI."""
