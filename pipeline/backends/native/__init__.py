"""The project's own trainer: `python -m pipeline.backends.native JOB.toml`, on diffusers and LyCORIS.

`render` and `job` load without torch, for the runner; everything else is loaded in the trainer's process only.
"""
