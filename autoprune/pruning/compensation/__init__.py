"""Compensation: what stays after a cut is refitted to the dense network's outputs, layer by layer, untrained."""
