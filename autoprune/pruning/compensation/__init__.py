"""Compensation: after a cut, what stays is refitted to the dense network's outputs, layer by layer, without training."""
