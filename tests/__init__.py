"""Real files in a temporary folder, real processes, one behaviour a test."""
