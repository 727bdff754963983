"""Pruning: groups and blocks that can go, importance scores, plans of cuts, and surgery."""
