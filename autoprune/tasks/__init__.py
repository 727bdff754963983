"""The data: built-in data sets, image folders, arrays in memory, and bringing your own."""
