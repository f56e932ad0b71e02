"""The training profiles, read as their files stand, and told to people who choose one."""
