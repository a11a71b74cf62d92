"""What the commands do: one file a command, each the whole path on one screen."""
