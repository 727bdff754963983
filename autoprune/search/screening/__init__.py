"""Screening: hundreds of networks are cut, compensated and looked at without training; the best become trials."""
