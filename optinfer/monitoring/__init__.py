"""Decisions from measurements: which of two models, how sure, and what would tell. Plain values in, decisions out."""
