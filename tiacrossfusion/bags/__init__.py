"""Feature bags: the features of one slide, where its patches lie, and how both were made."""
