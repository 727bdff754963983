"""Weights set to zero in place: which, and how they are held there."""
