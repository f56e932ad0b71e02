"""What model files say of themselves, read from their headers alone: no weights are loaded, nothing in them is run."""
