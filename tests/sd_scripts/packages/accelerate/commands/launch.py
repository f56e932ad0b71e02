"""Stands for `accelerate launch` with one process: its own options are read, the script is run and waited for."""

import os
import subprocess
import sys

KNOWN = ("--config_file", "--num_processes", "--num_cpu_threads_per_process", "--main_process_port")


def main():
    given = sys.argv[1:]
    script = next((place for place, word in enumerate(given) if word.endswith(".py")), None)
    if script is None:
        sys.exit("usage: accelerate launch [options] script.py [arguments]")
    options = dict(zip(given[:script:2], given[1:script:2], strict=True))
    unknown = [name for name in options if name not in KNOWN]
    if unknown:
        sys.exit(f"accelerate: error: unrecognized arguments: {' '.join(unknown)}")
    if not os.path.isfile(options.get("--config_file", __file__)):
        raise ValueError(f"{options['--config_file']} is not a file")
    command = [sys.executable, *(["-S"] if sys.flags.no_site else []), *given[script:]]
    process = subprocess.Popen(command)
    process.wait()
    if process.returncode != 0:
        raise subprocess.CalledProcessError(returncode=process.returncode, cmd=command)


if __name__ == "__main__":
    main()
