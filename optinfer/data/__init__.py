"""The table: planned as fragments, read, committed, accounted for."""
