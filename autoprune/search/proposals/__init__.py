"""Which policies are tried next, each of them on the budget."""
