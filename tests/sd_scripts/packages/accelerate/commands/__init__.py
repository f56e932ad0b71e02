"""Stands for accelerate.commands."""
