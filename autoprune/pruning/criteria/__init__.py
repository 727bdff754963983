"""The importance criteria that autoprune ships, one family per file; ``docs/criteria.md`` compares them."""
