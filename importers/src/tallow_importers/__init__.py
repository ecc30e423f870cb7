"""Tallow's importers: models in files become Graphs."""
