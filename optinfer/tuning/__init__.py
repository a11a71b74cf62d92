"""The search for the fastest settings of a node, and what it found."""
