"""Networks in formats that other programs run."""
