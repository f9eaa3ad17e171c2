"""Training tasks: one module per network, each with `build(recipe) -> Task`."""
