"""Which channels are the same: one forward pass, watched operation by operation."""
