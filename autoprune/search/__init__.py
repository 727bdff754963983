"""The search: the loop that asks, evaluates and tells, and the session around it."""
