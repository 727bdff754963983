"""Where and how networks run: the runtime, how it is chosen, seeding and evaluation mode."""
