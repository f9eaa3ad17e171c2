"""Data: readers of picture folders and seeded synthesis."""
