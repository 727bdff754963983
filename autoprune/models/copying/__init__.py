"""Copies of networks as people write them: what hinders a copy is set aside, or named in one line."""
