"""Passes over a model: with and without gradients, scored, and generated."""
