"""From a candidate to its outcome."""
