"""Stands for `accelerate launch`: its own options are read, the script is run so many times, and waited for."""

import os
import re
import subprocess
import sys
import tempfile

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
    with tempfile.TemporaryDirectory() as meeting:
        started = [subprocess.Popen(command, env=os.environ | place) for place in places(count(options), meeting)]
        failed = [process.returncode for process in started if process.wait() != 0]
    if failed:
        raise subprocess.CalledProcessError(returncode=failed[0], cmd=command)


def count(options):
    """Its own option beats that of the file."""
    if "--num_processes" in options:
        return int(options["--num_processes"])
    with open(options["--config_file"]) as file:
        told = re.search(r"^num_processes: (\d+)$", file.read(), re.MULTILINE)
    return int(told[1]) if told else 1


def places(asked, meeting):
    """Variables of each process; `fewer` starts one in place of all, `alone` tells none of the others."""
    faults = os.environ.get("STAND_IN_FAULTS", "").split(",")
    if asked == 1 or "fewer" in faults:
        return [{}]
    if "alone" in faults:
        return [{}] * asked
    return [{"RANK": str(n), "WORLD_SIZE": str(asked), "STAND_IN_MEETING": meeting} for n in range(asked)]


if __name__ == "__main__":
    main()
