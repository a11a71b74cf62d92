"""The machine and the process: its home folder, its features, its streams, its last words."""
