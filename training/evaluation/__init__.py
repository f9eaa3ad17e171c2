"""What trained networks are worth on portraits: `revisage evaluate`."""
