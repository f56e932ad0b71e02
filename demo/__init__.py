"""The demo model and dataset: pictures drawn by code, and a tiny Stable Diffusion 1 trained on them."""
