"""The runs that are on the disk: which there are, what each was, how they differ, what it takes to repeat one."""
