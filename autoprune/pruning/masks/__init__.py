"""Masks on single weights: which layers allow them, which weights are zeroed, and how they stay zero."""
