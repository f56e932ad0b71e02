"""How much memory a run will need, from facts alone: nothing here asks a device or loads a model."""
