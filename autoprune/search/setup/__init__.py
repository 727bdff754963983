"""What a study computes once before its first trial."""
