"""Which channels are the same, and which modules only add: one forward pass, watched operation by operation."""
