"""Networks, data, and the training and scoring of one with the other."""
