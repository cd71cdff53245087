"""Model bundles: what they hold, how they are found and loaded."""
