"""The importance criteria that autoprune ships, one family per file; ``docs/reference/criteria.md`` compares them."""
