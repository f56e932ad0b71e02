"""Trains with the user's own checkout of kohya-ss/sd-scripts: every line that is rendered has the effect that it says,
or the run does not start."""
