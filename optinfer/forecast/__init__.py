"""What a run will take, from what was measured before."""
