"""Audit: how far a risk moves when features are perturbed, by chance, by site or by an adversary."""
