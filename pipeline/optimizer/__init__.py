"""Optimizers: what is known of them, a trial on the device, and what takes the place of one that fails it."""
