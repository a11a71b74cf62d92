"""How a job gets to run where nobody types it: files for what other systems start. No daemon of ours runs."""
