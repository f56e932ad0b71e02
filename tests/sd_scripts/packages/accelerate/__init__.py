"""Stands for accelerate, of which the tests need its launcher only."""
