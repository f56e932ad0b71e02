"""LoRA Easy Pipeline: a declarative runner for training diffusion adapters and checkpoints."""

__version__ = "0.1.0"
