"""From the best trials within a budget to one finished network in a folder."""
