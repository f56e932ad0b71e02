"""What cards the machine has, by the kernel's files and the driver's own tool: torch need not be there.

A card counts as usable where its device nodes can be opened: in a container the kernel may list all cards of the host.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.machine import architectures
from pipeline.machine.host import ROOT, text_of
from pipeline.records import Platform

Vendor = Literal["nvidia", "amd", "intel"]
PLATFORMS: Mapping[Vendor, Platform] = {"nvidia": "cuda", "amd": "rocm", "intel": "xpu"}
"""In the order in which they are preferred: a machine with two of them has an integrated one of the later."""
VENDOR_IDS: Mapping[str, Vendor] = {"10de": "nvidia", "1002": "amd", "8086": "intel"}
TOOL_SECONDS = 10.0
NVIDIA_QUERY = ("name", "memory.total", "memory.used", "driver_version", "compute_cap")
"""`compute_cap` is the last: drivers before 2021 don't know it."""
WSL_TOOL = "usr/lib/wsl/lib/nvidia-smi"
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card, or the graphics of a processor."""

    vendor: Vendor
    name: str
    arch: str = ""
    """sm_89, gfx1100, alchemist; empty where nothing tells."""
    memory_bytes: int = 0
    """0 where nothing tells."""
    free_bytes: int = 0
    """0 where nothing tells."""
    driver: str = ""
    integrated: bool = False
    openable: bool = True
    """This process may open its device nodes."""

    @property
    def platform(self) -> Platform:
        return PLATFORMS[self.vendor]

    def __str__(self) -> str:
        return f"{self.name} ({self.arch})" if self.arch and self.arch not in self.name else self.name


@dataclass(frozen=True, slots=True)
class Said:
    """What a tool answered."""

    text: str
    failed: str = ""
    """Why it did not answer; `not there` for a tool that is not installed."""


Run = Callable[[Sequence[str]], Said]


@dataclass(frozen=True, slots=True)
class Found:
    """What the machine has, without torch."""

    cards: tuple[Card, ...] = ()
    wsl: bool = False
    """Windows lends its cards."""
    complaint: str = ""
    """What nvidia-smi said where it failed."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the user has set of the variables that matter to a card."""

    @property
    def usable(self) -> tuple[Card, ...]:
        return tuple(card for card in self.cards if card.openable)


def find_cards(
    root: Path = ROOT,
    *,
    run: Run | None = None,
    environment: Mapping[str, str] | None = None,
    names: Sequence[str] = (),
) -> Found:
    """Takes a moment where there is no card, and the time limit of one tool at the most; never raises. Of the
    `environment` those variables are kept that `names` has."""
    said = Said("", "not asked")
    wsl = (root / "dev/dxg").exists()
    if wsl or any((root / "dev").glob("nvidia[0-9]*")):
        said = _ask_nvidia(root, run or run_tool)
    nvidia = tuple(_nvidia_by_tool(said)) or tuple(_nvidia_by_driver(root))
    cards = (*nvidia, *_amd(root), *_intel(root))
    user = os.environ if environment is None else environment
    return Found(
        cards=(*cards, *_without_driver(root, {card.vendor for card in cards})),
        wsl=wsl,
        complaint=said.failed if said.failed != "not asked" and not nvidia_answered(said) else "",
        environment={name: user[name] for name in names if name in user},
    )


def run_tool(argv: Sequence[str]) -> Said:
    """In a process group of its own, ended after ten seconds: a tool that asks a broken driver may never return."""
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError:
        return Said("", "not there")
    try:
        output, _ = process.communicate(timeout=TOOL_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return Said("", f"it did not answer within {TOOL_SECONDS:g} s")
    text = output.decode(errors="replace")
    last = next((line for line in reversed(text.splitlines()) if line.strip()), f"status {process.returncode}")
    return Said(text, last.strip() if process.returncode else "")


# -------------------------------------------------------------------------------------------------------------- NVIDIA


def _ask_nvidia(root: Path, run: Run) -> Said:
    """On WSL the tool is not on the path; one that does not know the last column is asked without it."""
    tool = str(root / WSL_TOOL) if (root / WSL_TOOL).exists() else "nvidia-smi"
    said = Said("", "not asked")
    for columns in (NVIDIA_QUERY, NVIDIA_QUERY[:-1]):
        said = run([tool, f"--query-gpu={','.join(columns)}", "--format=csv,noheader,nounits"])
        if nvidia_answered(said) or "compute_cap" not in said.text:
            return said
    return said


def nvidia_answered(said: Said) -> bool:
    return not said.failed and any(_nvidia_by_tool(said))


def _nvidia_by_tool(said: Said) -> Iterator[Card]:
    for line in said.text.splitlines() if not said.failed else ():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) in (len(NVIDIA_QUERY) - 1, len(NVIDIA_QUERY)):
            name, total, used, driver, capability = (*cells, "")[: len(NVIDIA_QUERY)]
            memory = int(total) * MIB if total.isdecimal() else 0
            yield Card(
                vendor="nvidia",
                name=name,
                arch=f"sm_{capability.replace('.', '')}" if re.fullmatch(r"\d+\.\d", capability) else "",
                memory_bytes=memory,
                free_bytes=memory - int(used) * MIB if used.isdecimal() else 0,
                driver=driver,
            )


def _nvidia_by_driver(root: Path) -> Iterator[Card]:
    """From what the kernel module tells where its tool does not answer. Its devices are not opened then: a driver that
    hangs would hang us too."""
    release = re.search(r"\b(\d{3}\.\d+(\.\d+)?)\b", text_of(root / "proc/driver/nvidia/version"))
    for file in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        fields = _colons(text_of(file))
        node = root / f"dev/nvidia{fields.get('Device Minor', '')}"
        name = fields.get("Model", "NVIDIA card")
        yield Card(
            "nvidia", name, driver=release.group(1) if release else "", openable=os.access(node, os.R_OK | os.W_OK)
        )


# ----------------------------------------------------------------------------------------------------------------- AMD

AMD_NAMES = {
    **{"744c:c8": "Radeon RX 7900 XTX", "744c:cc": "Radeon RX 7900 XT", "744c:ce": "Radeon RX 7900 GRE"},
    **{"7480:cf": "Radeon RX 7600", "747e:c8": "Radeon RX 7800 XT", "747e:ff": "Radeon RX 7700 XT"},
    **{"7550:c0": "Radeon RX 9070 XT", "7550:c3": "Radeon RX 9070"},
    **{"73bf:c0": "Radeon RX 6900 XT", "73bf:c1": "Radeon RX 6800 XT", "73bf:c3": "Radeon RX 6800"},
    **{"73df:c1": "Radeon RX 6700 XT", "73ff:c1": "Radeon RX 6600 XT", "73ff:c7": "Radeon RX 6600"},
    **{"74a1:00": "Instinct MI300X", "740f:02": "Instinct MI210", "66af:c1": "Radeon VII"},
}
"""The commonest, for machines without the list of libdrm."""


def _amd(root: Path) -> Iterator[Card]:
    """By the topology of the compute driver, which lists processors too: those have no target version."""
    compute = can_open(root / "dev/kfd")
    for node in sorted(root.glob("sys/class/kfd/kfd/topology/nodes/*/properties"), key=_node_number):
        properties = _words(text_of(node))
        version = _number(properties.get("gfx_target_version", ""))
        if version:
            render = f"renderD{_number(properties.get('drm_render_minor', ''))}"
            yield _amd_card(root, node.parent, architectures.gfx_name(version), render, compute=compute)


def _amd_card(root: Path, node: Path, arch: str, render: str, *, compute: bool) -> Card:
    device = root / "sys/class/drm" / render / "device"
    total = _number(text_of(device / "mem_info_vram_total")) or _kfd_memory(node)
    used = text_of(device / "mem_info_vram_used")
    return Card(
        vendor="amd",
        name=_amd_name(root, device, arch),
        arch=arch,
        memory_bytes=total,
        free_bytes=total - _number(used) if used else 0,
        driver=text_of(root / "sys/module/amdgpu/version").strip(),
        integrated=architectures.is_integrated(arch),
        openable=compute and can_open(root / "dev/dri" / render),
    )


def _kfd_memory(node: Path) -> int:
    """Of the banks that are the card's own (heap 1 and 2)."""
    banks = [_words(text_of(file)) for file in node.glob("mem_banks/*/properties")]
    return sum(_number(bank.get("size_in_bytes", "")) for bank in banks if bank.get("heap_type") in ("1", "2"))


def _amd_name(root: Path, device: Path, arch: str) -> str:
    told = text_of(device / "product_name").strip()
    if told:
        return told
    model = _uevent(device).get("PCI_ID", "").lower().partition(":")[2]
    revision = text_of(device / "revision").strip().removeprefix("0x").lower()
    listed = _amd_listed(text_of(root / "usr/share/libdrm/amdgpu.ids"), model, revision)
    kind = "graphics" if architectures.is_integrated(arch) else "card"
    return listed or f"AMD {AMD_NAMES.get(f'{model}:{revision}', kind)}"


def _amd_listed(table: str, model: str, revision: str) -> str:
    """Lines of `744C,	C8,	AMD Radeon RX 7900 XTX`."""
    for line in table.splitlines() if model else ():
        cells = [cell.strip() for cell in line.split(",", 2)]
        if len(cells) == 3 and (cells[0].lower(), cells[1].lower()) == (model, revision):
            return cells[2]
    return ""


# --------------------------------------------------------------------------------------------------------------- Intel

INTEL_NAMES = {
    **{0x56A0: "Arc A770", 0x56A1: "Arc A750", 0x56A2: "Arc A580", 0x56A5: "Arc A380", 0xE20B: "Arc B580"},
    **{0xE20C: "Arc B570", 0xE211: "Arc Pro B60", 0xE212: "Arc Pro B50"},
}


def _intel(root: Path) -> Iterator[Card]:
    """By the PCI device: nearly every processor of Intel has graphics, and most of these torch can't drive."""
    for device in sorted(root.glob("sys/class/drm/renderD*/device")):
        event = _uevent(device)
        vendor, _, model = event.get("PCI_ID", "").lower().partition(":")
        if VENDOR_IDS.get(vendor) == "intel" and re.fullmatch(r"[0-9a-f]{4}", model):
            family = architectures.intel_family(int(model, 16))
            yield Card(
                vendor="intel",
                name=f"Intel {INTEL_NAMES.get(int(model, 16), f'{model} graphics')}",
                arch=family,
                driver=event.get("DRIVER", ""),
                integrated=not family or architectures.is_integrated(family),
                openable=can_open(root / "dev/dri" / device.parent.name),
            )


# ----------------------------------------------------------------------------------------------------- without a driver


def _without_driver(root: Path, seen: set[Vendor]) -> Iterator[Card]:
    """Cards on the bus that no driver has made a device of: what a container sees of the host's, for one."""
    for file in sorted(root.glob("sys/bus/pci/devices/*/uevent")):
        event = _uevent(file.parent)
        identity = event.get("PCI_ID", "").lower()
        vendor = VENDOR_IDS.get(identity.partition(":")[0])
        if vendor in ("nvidia", "amd") and vendor not in seen and _is_display(event.get("PCI_CLASS", "")):
            title = "NVIDIA" if vendor == "nvidia" else "AMD"
            yield Card(vendor, f"{title} card {identity}", driver=event.get("DRIVER", ""), openable=False)


def _is_display(pci_class: str) -> bool:
    """The kernel leaves out the zero in front: 30000 is 03 00 00, a display controller."""
    return re.fullmatch(r"3[0-9a-f]{4}", pci_class.lower()) is not None


def can_open(node: Path) -> bool:
    """Tried, for the rights of a file don't show what a container's rules forbid."""
    try:
        os.close(os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _uevent(device: Path) -> dict[str, str]:
    lines = (line.partition("=") for line in text_of(device / "uevent").splitlines())
    return {name: value for name, _, value in lines}


def _colons(text: str) -> dict[str, str]:
    lines = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _words(text: str) -> dict[str, str]:
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _node_number(properties: Path) -> int:
    return _number(properties.parent.name)


def _number(text: str) -> int:
    text = text.strip()
    return int(text) if text.isdecimal() else 0
