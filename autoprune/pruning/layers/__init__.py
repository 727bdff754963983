"""Where the channels of each kind of layer lie, attention included."""
