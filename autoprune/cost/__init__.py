"""What a network costs: exactly where it follows from the policy, measured where it does not."""
