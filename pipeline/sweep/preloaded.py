"""What the process that trials are forked from has imported: the runner's own modules and what native training needs.

Only that process imports this. No thread may run in it when it forks, and nothing may have been computed: OpenMP's
threads would be missing.
"""

from __future__ import annotations

import os

from pipeline.backends.native.quiet import quieten

os.setsid()  # what a terminal sends to all that it started is for the sweep, which passes it on
quieten()

import pipeline.backends.native.loop  # noqa: E402
import pipeline.runner  # noqa: E402

__all__ = ["pipeline"]
