"""Stands for torchvision, which is only imported."""

__version__ = "0.23.0+cpu"
