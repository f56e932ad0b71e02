"""Sweeps: many trials of one command, and which of them was best."""
