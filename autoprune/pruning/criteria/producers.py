"""The helpers of ``channel_parameters`` under the name that users' criteria import them by."""

from autoprune.pruning.criteria.channel_parameters import channel_sums, filters

__all__ = ["channel_sums", "filters"]
