"""Features of other programs to bags, and bags to what other programs read."""
