"""The functions of ``flatten`` under the name that users' loggers import them by."""

from autoprune.loggers.flatten import chosen_of, measured_of, seconds_of, standing_of, values_of

__all__ = ["chosen_of", "measured_of", "seconds_of", "standing_of", "values_of"]
