"""The nouns: metrics, policies, spaces, trials, registries. The standard library and NumPy only."""
