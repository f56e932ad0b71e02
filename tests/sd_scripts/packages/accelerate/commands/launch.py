"""Stands for `accelerate launch` with one process: its own options are skipped, the script is run and waited for."""

import subprocess
import sys


def main():
    given = sys.argv[1:]
    script = next((place for place, word in enumerate(given) if word.endswith(".py")), None)
    if script is None:
        sys.exit("usage: accelerate launch [options] script.py [arguments]")
    command = [sys.executable, *given[script:]]
    process = subprocess.Popen(command)
    process.wait()
    if process.returncode != 0:
        raise subprocess.CalledProcessError(returncode=process.returncode, cmd=command)


if __name__ == "__main__":
    main()
