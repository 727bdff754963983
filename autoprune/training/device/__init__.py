"""Where and how networks run: device, precision, memory layout, threads, seeds."""
