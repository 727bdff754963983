"""The report's still pictures."""
