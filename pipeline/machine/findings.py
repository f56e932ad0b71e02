"""What a machine lacks that a training will need, each with what to type: containers, folders, driver libraries."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.machine import host
from pipeline.machine.cards import Found, Vendor
from pipeline.machine.host import ROOT, text_of

Level = Literal["ok", "warning", "failure"]
GIB = 2**30
LEAST_SHM_BYTES = GIB
LEAST_CACHE_BYTES = GIB
Free = Callable[[Path], int]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    subject: str
    text: str
    fix: str = ""
    """What to type, one way or another, parted by `; or `; empty where nothing has to be mended."""


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def whole_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).total


# ----------------------------------------------------------------------------------------------------------- container

CONTAINERS = {
    "RUNPOD_POD_ID": "a pod of RunPod",
    "VAST_CONTAINERLABEL": "a container of Vast.ai",
    "KUBERNETES_SERVICE_HOST": "a pod of Kubernetes",
}
MARKS = {".dockerenv": "a Docker container", "run/.containerenv": "a Podman container"}


def container(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> str:
    """In words; empty for none."""
    named = next((title for name, title in CONTAINERS.items() if name in environment), "")
    return named or next((title for mark, title in MARKS.items() if (root / mark).exists()), "")


def limits(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """What this process gets of the machine. Other tools show the whole of it."""
    kind, limit, total = container(root, environment), host.memory_limit_bytes(root), _total_memory(root)
    cores = host.cpu_cores(root)
    where = f"{kind}: " if kind else ""
    if limit and total and limit < total:
        text = f"{where}{limit / GIB:.1f} of the machine's {total / GIB:.1f} GiB may be used; beyond that it is killed"
        yield Finding("ok", "limits", f"{text}. {cores} cores")
    elif kind:
        yield Finding("ok", "limits", f"{where}no limit of memory; {cores} cores")


def shared_memory(root: Path = ROOT, size: Free = whole_bytes) -> Iterator[Finding]:
    """Docker gives 64 MiB, and processes that load pictures die there with a bus error."""
    folder = root / "dev" / "shm"
    if folder.is_dir() and size(folder) < LEAST_SHM_BYTES:
        text = f"it holds {size(folder) / 2**20:.0f} MiB: the processes that load pictures for backend=kohya die of it"
        fix = "docker run --shm-size=16g; or docker run --ipc=host; or backend.args.max_data_loader_n_workers=0"
        yield Finding("warning", "dev/shm", text, fix)


def _total_memory(root: Path) -> int:
    line = next((row for row in text_of(root / "proc/meminfo").splitlines() if row.startswith("MemTotal:")), "")
    number = line.removeprefix("MemTotal:").strip().partition(" ")[0]
    return int(number) * 1024 if number.isdecimal() else 0


# -------------------------------------------------------------------------------------------------------------- folders

CACHES = {"HF_HOME": ".cache/huggingface", "XDG_CACHE_HOME": ".cache", "TRITON_CACHE_DIR": ".triton"}
"""Variable -> the folder in the home folder that is used without it."""
CACHES_OF_AMD = {"MIOPEN_USER_DB_PATH": ".config/miopen", "MIOPEN_CUSTOM_CACHE_DIR": ".cache/miopen"}
CACHES_OF_INTEL = {"SYCL_CACHE_DIR": ".cache/libsycl_cache"}
CACHES_OF: Mapping[Vendor, Mapping[str, str]] = {"amd": CACHES_OF_AMD, "intel": CACHES_OF_INTEL}


def caches(found: Found, environment: Mapping[str, str], home: Path, free: Free = free_bytes) -> Iterator[Finding]:
    """Each folder is really written to: the rights of root don't show a disk that is mounted for reading."""
    names = dict(CACHES)
    for card in found.usable:
        names.update(CACHES_OF.get(card.vendor, {}))
    for name, usual in names.items():
        folder = Path(environment[name]) if environment.get(name) else home / usual
        yield from cache(name, folder, free)


def cache(name: str, folder: Path, free: Free = free_bytes) -> Iterator[Finding]:
    wrong = why_not_writable(folder)
    fix = f"export {name}=FOLDER, on a disk that you may write to and that has room"
    if wrong:
        yield Finding("warning", "cache", f"{name}: {folder} {wrong}", fix)
    elif free(nearest(folder)) < LEAST_CACHE_BYTES:
        yield Finding("warning", "cache", f"{name}: {folder} has {free(nearest(folder)) / GIB:.1f} GiB left", fix)
    else:
        yield Finding("ok", "cache", f"{name}: {folder}")


def why_not_writable(folder: Path) -> str:
    """Empty where a file could be made and removed, in it or, before it is there, where it will be."""
    place = nearest(folder)
    if not place.is_dir():
        return f"can't be made: {place} is no folder"
    try:
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return f"can't be written to: {error.strerror}"


def nearest(folder: Path) -> Path:
    """The folder, or the one that it will be made in."""
    return next((each for each in (folder, *folder.parents) if each.exists()), folder)


# --------------------------------------------------------------------------------------------------------------- driver

LIBRARY_FOLDERS = (
    *("usr/lib/*-linux-gnu", "lib/*-linux-gnu", "usr/lib64", "usr/lib", "usr/local/lib", "usr/lib/wsl/lib"),
    *("usr/local/nvidia/lib64", "usr/local/cuda/compat", "run/opengl-driver/lib"),
)
LIBRARIES: Mapping[Vendor, tuple[str, str]] = {
    "nvidia": ("libcuda.so.1", "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
    "intel": ("libze_intel_gpu.so.1", "apt install libze-intel-gpu1 libze1"),
}
"""What torch's wheels don't bring, and how it comes into a container or a system."""
OPENING: Mapping[Vendor, str] = {
    "nvidia": "docker run --gpus all; or install NVIDIA's driver, where this is no container",
    "amd": "sudo usermod -aG render,video $USER   (and log in anew); or "
    "docker run --device=/dev/kfd --device=/dev/dri --group-add video --security-opt seccomp=unconfined --ipc=host",
    "intel": "sudo usermod -aG render,video $USER   (and log in anew); or docker run --device=/dev/dri",
}


def cards(found: Found) -> Iterator[Finding]:
    """Each card, and whether this process may use it."""
    for card in found.cards:
        memory = f", {card.memory_bytes / GIB:.1f} GiB" if card.memory_bytes else ""
        free = f", {card.free_bytes / GIB:.1f} GiB free" if card.free_bytes else ""
        driver = f", driver {card.driver}" if card.driver else ""
        part = ", part of the processor" if card.integrated else ""
        text = f"{card}{memory}{free}{driver}{part}"
        if card.openable or (card.vendor == "intel" and not card.arch):  # torch can't drive the latter anyway
            yield Finding("ok", "card", text)
        else:
            yield Finding("warning", "card", f"{text}: its device may not be opened here", OPENING[card.vendor])
    if not found.cards:
        yield Finding("ok", "card", "none: trained is on the CPU")


def driver(found: Found, root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Libraries without which torch finds no card, and what the driver's own tool complained of."""
    if found.complaint:
        fix = "restart the container, or the machine: its driver may have been changed since it started"
        yield Finding("warning", "driver", f"nvidia-smi: {found.complaint}", fix)
    for vendor in dict.fromkeys(card.vendor for card in found.usable if card.vendor != "intel" or card.arch):
        name, fix = LIBRARIES.get(vendor, ("", ""))
        if name and not _has_library(root, name, environment):
            yield Finding("failure", "driver", f"{name} is not here, and without it torch finds no card", fix)


def _has_library(root: Path, name: str, environment: Mapping[str, str]) -> bool:
    given = [root / folder.lstrip("/") for folder in environment.get("LD_LIBRARY_PATH", "").split(":") if folder]
    usual = [folder for pattern in LIBRARY_FOLDERS for folder in root.glob(pattern)]
    return any((folder / name).exists() for folder in (*given, *usual))
