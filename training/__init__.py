"""Training: networks, losses, data synthesis, recipes, metrics and importers (PyTorch)."""
