"""Listing, copying, packing, unpacking and removing studies."""
