"""Metrics: how good a result is, for people to read and recipes to compare."""
