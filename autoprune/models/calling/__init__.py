"""How a network is called: what goes in, what comes out."""
