"""Loads bitsandbytes, and prints which of its libraries it chose as one line of JSON.

    python -P ask_bitsandbytes.py

Run in a process of its own, as `ask.py` is: a library that does not fit the driver may end it.

    {"library": "libbitsandbytes_cuda130.so"}        empty where it loaded none
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path

MAPS = Path("/proc/self/maps")
"""What Linux has mapped into this process."""


def main() -> None:
    warnings.simplefilter("ignore")
    import bitsandbytes  # noqa: F401  the library is chosen when it is imported

    libraries = re.findall(r"libbitsandbytes_\w+\.so", MAPS.read_text(encoding="utf-8"))
    sys.stdout.write("\n" + json.dumps({"library": libraries[0] if libraries else ""}) + "\n")


if __name__ == "__main__":
    main()
