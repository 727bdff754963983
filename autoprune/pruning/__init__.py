"""Find what can be cut, rank it, and cut it."""
