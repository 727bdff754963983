"""What trials say: fronts, comparisons, early stopping, successive halving."""
