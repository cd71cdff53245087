"""Training: settings, the folds of a run, networks fitted to them and their bundles."""
