"""Variational autoencoders in Pyro: four parts, each swappable without touching the others."""
