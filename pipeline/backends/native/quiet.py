"""The libraries' notes on what is not installed are not for a user of ours."""

from __future__ import annotations

import logging
import os
import warnings

NOISY_LOGGERS = ("transformers", "diffusers", "accelerate", "bitsandbytes", "torch.distributed")


def quieten() -> None:
    """To be called before they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module=r"(torch|transformers|diffusers|lycoris)(\.|$)")
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
