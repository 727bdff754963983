"""Networks: the built-in ones, from a name or a module to a network, and reading weights."""
