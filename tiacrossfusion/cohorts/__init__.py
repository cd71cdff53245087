"""Follow-up tables, patients, splits and folds."""
