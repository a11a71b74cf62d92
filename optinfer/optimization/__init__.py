"""Variants of a model: recipes, built artifacts, what was measured of them, and which may score."""
