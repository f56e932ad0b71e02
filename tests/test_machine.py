from __future__ import annotations

import json
import os
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pipeline.machine import host
from pipeline.machine.ask import _drivable, answer
from pipeline.machine.precision import choose_precision, precision_problems
from pipeline.machine.probe import probe_machine
from pipeline.settings import PlatformName, Precision
from tests import given

CPU_ANSWER = {"torch": "2.13.0+cpu", "platform": "cpu", "devices": []}
CARDS_ANSWER = {
    "torch": "2.13.0+cu130",
    "platform": "cuda",
    "devices": [
        {"name": "A card", "free_bytes": 24_000, "bf16": True},
        {"name": "An older card", "free_bytes": 11_000, "bf16": False},
    ],
}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """A /dev without any card."""
    (tmp_path / "dev").mkdir()
    return tmp_path / "dev"


def answering(answer: object, *, count_in: Path | None = None) -> list[str]:
    """A command that answers in torch's place, and counts how often it was asked."""
    text = answer if isinstance(answer, str) else json.dumps(answer)
    count = f"open({str(count_in)!r}, 'a').write('.')\n" if count_in else ""
    return [sys.executable, "-c", f"{count}print('a library says hello')\nprint({text!r})"]


def running(code: str) -> list[str]:
    return [sys.executable, "-c", code]


# ---------------------------------------------------------------------------------------------------------- probing


def test_torch_itself_is_asked(dev: Path) -> None:
    machine, problems = probe_machine(PlatformName.cpu, seconds=120, dev=dev)
    assert (machine.platform, machine.bf16, problems) == ("cpu", False, ())
    assert machine.torch_version
    assert machine.memory_bytes > 0
    assert machine.cpu_cores >= 1


def test_cards_are_told_by_name_with_what_the_weakest_has(dev: Path) -> None:
    machine, problems = probe_machine(PlatformName.auto, seconds=20, command=answering(CARDS_ANSWER), dev=dev)
    assert problems == ()
    assert (machine.platform, machine.device_names) == ("cuda", ("A card", "An older card"))
    assert (machine.memory_bytes, machine.bf16) == (11_000, False)


def test_a_platform_that_torch_can_not_drive_is_a_problem(dev: Path) -> None:
    machine, (problem,) = probe_machine(PlatformName.cuda, seconds=20, command=answering(CPU_ANSWER), dev=dev)
    assert machine.platform == "cpu"
    assert str(problem).startswith("hardware=cuda: torch 2.13.0+cpu can't drive cuda here; it can drive the CPU only")
    assert "whl/cu130" in problem.fix
    assert "hardware=auto" in problem.fix


def test_another_platform_than_wanted_is_named(dev: Path) -> None:
    _, (problem,) = probe_machine(PlatformName.xpu, seconds=20, command=answering(CARDS_ANSWER), dev=dev)
    assert "it can drive cuda (A card, An older card)" in problem.reason
    assert "hardware=cuda" in problem.fix


def test_a_hang_ends_with_the_time_limit(dev: Path) -> None:
    began = time.monotonic()
    machine, (problem,) = probe_machine(
        PlatformName.auto, seconds=0.3, command=running("import time; time.sleep(60)"), dev=dev
    )
    assert time.monotonic() - began < 10
    assert (machine.platform, machine.torch_version) == ("cpu", "")
    assert "did not answer within 0.3 s" in problem.reason


def test_a_hang_takes_its_helpers_with_it(dev: Path, tmp_path: Path) -> None:
    code = f"""
import subprocess, sys, time
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(tmp_path / "pid")!r}, "w").write(str(helper.pid))
time.sleep(60)
"""
    probe_machine(PlatformName.auto, seconds=2, command=running(code), dev=dev)
    helper = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not psutil.pid_exists(helper) or psutil.Process(helper).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    pytest.fail("the helper is still running")


def test_a_crash_is_told_by_its_last_line(dev: Path) -> None:
    command = running("raise ImportError('libcudart.so.13: cannot open shared object file')")
    _, (problem,) = probe_machine(PlatformName.auto, seconds=20, command=command, dev=dev)
    assert "libcudart.so.13: cannot open" in problem.reason


def test_a_death_without_a_word_is_told(dev: Path) -> None:
    command = running("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    _, (problem,) = probe_machine(PlatformName.auto, seconds=20, command=command, dev=dev)
    assert "status -11" in problem.reason


@pytest.mark.parametrize(
    "answer", ["", "hello", "[]", "{}", json.dumps(CPU_ANSWER | {"platform": "tpu"}), json.dumps({"devices": 5})]
)
def test_an_answer_that_makes_no_sense_is_told(dev: Path, answer: str) -> None:
    _, (problem,) = probe_machine(PlatformName.auto, seconds=20, command=answering(answer), dev=dev)
    assert "can't be read" in problem.reason


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_senseless_time_limit_is_told(dev: Path, seconds: float) -> None:
    _, (problem,) = probe_machine(PlatformName.auto, seconds=seconds, command=answering(CPU_ANSWER), dev=dev)
    assert "hardware.probe_seconds" in problem.reason


# ------------------------------------------------------------------------------------------------------ remembering


def asked_twice(dev: Path, count_in: Path, answer: object = CPU_ANSWER) -> int:
    """How often torch was asked, for two probes."""
    for _ in range(2):
        probe_machine(PlatformName.auto, seconds=20, command=answering(answer, count_in=count_in), dev=dev)
    return len(count_in.read_text())


def test_without_a_card_the_answer_is_remembered(dev: Path, tmp_path: Path) -> None:
    assert asked_twice(dev, tmp_path / "count") == 1


def test_memory_is_measured_each_time(dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = answering(CPU_ANSWER)
    probe_machine(PlatformName.auto, seconds=20, command=command, dev=dev)
    monkeypatch.setattr(host, "available_memory_bytes", lambda: 12_345)
    assert probe_machine(PlatformName.auto, seconds=20, command=command, dev=dev)[0].memory_bytes == 12_345


@pytest.mark.parametrize("node", ["nvidia0", "kfd", "dri/renderD128", "dxg"])
def test_with_a_device_node_torch_is_asked_each_time(dev: Path, tmp_path: Path, node: str) -> None:
    (dev / node).parent.mkdir(exist_ok=True)
    (dev / node).touch()
    assert asked_twice(dev, tmp_path / "count") == 2


def test_an_answer_with_cards_is_not_remembered(dev: Path, tmp_path: Path) -> None:
    assert asked_twice(dev, tmp_path / "count", CARDS_ANSWER) == 2


def test_visible_devices_are_part_of_the_question(dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_twice(dev, tmp_path / "count")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert asked_twice(dev, tmp_path / "count") == 2


def test_a_damaged_cache_is_asked_anew(dev: Path, tmp_path: Path, cache_folder: Path) -> None:
    asked_twice(dev, tmp_path / "count")
    (file,) = (cache_folder / "lora-easy-pipeline").glob("probe-*.json")
    file.write_text('{"torch": ')
    assert asked_twice(dev, tmp_path / "count") == 2


def test_a_cache_that_can_not_be_written_is_no_error(dev: Path, tmp_path: Path, cache_folder: Path) -> None:
    cache_folder.write_text("a file is where the folder should be")
    assert asked_twice(dev, tmp_path / "count") == 2


def test_the_cache_leaves_no_unfinished_files(dev: Path, tmp_path: Path, cache_folder: Path) -> None:
    asked_twice(dev, tmp_path / "count")
    files = list((cache_folder / "lora-easy-pipeline").iterdir())
    assert [file.suffix for file in files] == [".json"]
    assert stat.S_ISREG(files[0].stat().st_mode)


# --------------------------------------------------------------------------------------------- what the child sees


def torch_with(*, major: int = 9, arch: str = "", hip: str | None = None, xpu: bool = False) -> Any:
    """The parts of torch that are asked, since no card is here."""
    card = SimpleNamespace(name="A card", major=major, minor=6, gcnArchName=arch)
    arc = SimpleNamespace(name="An Arc", total_memory=16, has_bfloat16_conversions=True)
    return SimpleNamespace(
        __version__="2.13.0",
        version=SimpleNamespace(hip=hip, cuda=None if hip or xpu else "13.0"),
        cuda=SimpleNamespace(
            is_available=lambda: not xpu,
            device_count=lambda: 1,
            get_device_properties=lambda index: card,
            mem_get_info=lambda index: (7, 8),
            get_arch_list=lambda: ["sm_75", "sm_86"],
        ),
        xpu=SimpleNamespace(is_available=lambda: xpu, device_count=lambda: 1, get_device_properties=lambda index: arc),
    )


@pytest.mark.parametrize(
    ("torch", "platform", "bf16"),
    [
        (torch_with(major=9), "cuda", True),
        (torch_with(major=7), "cuda", False),
        (torch_with(hip="7.2", arch="gfx942:sramecc+:xnack-"), "rocm", True),
        (torch_with(hip="7.2", arch="gfx1100"), "rocm", True),
        (torch_with(hip="7.2", arch="gfx1201"), "rocm", True),
        (torch_with(hip="7.2", arch="gfx1030"), "rocm", False),
        (torch_with(hip="7.2", arch="gfx906"), "rocm", False),
        (torch_with(xpu=True), "xpu", True),
    ],
)
def test_platform_and_bfloat16_of_a_device(torch: Any, platform: str, bf16: bool) -> None:
    found, (device,) = _drivable(torch)
    assert (found, device["bf16"]) == (platform, bf16)


@pytest.mark.parametrize(
    ("torch", "arch", "builds"),
    [
        (torch_with(major=8), "sm_86", {"cuda": "13.0"}),
        (torch_with(hip="7.2", arch="gfx942:sramecc+:xnack-"), "gfx942", {"hip": "7.2"}),
        (torch_with(xpu=True), "", {}),
    ],
)
def test_architecture_and_builds_are_told(torch: Any, arch: str, builds: dict[str, str]) -> None:
    said: Any = answer(torch, "auto")
    assert (said["devices"][0]["arch"], said["builds"]) == (arch, builds)
    assert said["arch_list"] == ([] if arch == "" else ["sm_75", "sm_86"])


def test_no_device_is_asked_where_a_cpu_is_wanted() -> None:
    assert answer(torch_with(), "cpu")["devices"] == []


# -------------------------------------------------------------------------------------------------------------- host


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_memory_is_that_of_the_tightest_group_of_version_2(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/user/job"
    tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user/job\n",
            f"{group}/memory.max": "max\n",
            "sys/fs/cgroup/user/memory.max": "1000000\n",
            "sys/fs/cgroup/user/memory.current": "900000\n",
            "sys/fs/cgroup/user/memory.stat": "anon 5\ninactive_file 300000\n",
        },
    )
    assert host.available_memory_bytes(tmp_path) == 400_000


def test_memory_is_that_of_the_group_of_version_1(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/docker/x"
    files = {
        "proc/self/cgroup": "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n",
        f"{group}/memory.limit_in_bytes": "5000\n",
        f"{group}/memory.usage_in_bytes": "4000\n",
    }
    assert host.available_memory_bytes(tree(tmp_path, files)) == 1000


def test_memory_without_groups_is_that_of_the_machine(tmp_path: Path) -> None:
    assert host.available_memory_bytes(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


@pytest.mark.parametrize(("quota", "cores"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None)])
def test_cores_are_those_of_the_quota(tmp_path: Path, quota: str, cores: int | None) -> None:
    tree(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota + "\n"})
    assert host.cpu_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_the_processor_has_a_name(tmp_path: Path) -> None:
    assert host.cpu_name(tree(tmp_path, {"proc/cpuinfo": "vendor_id : X\nmodel name\t: A fine one\n"})) == "A fine one"
    assert host.cpu_name(tmp_path / "nothing")


# --------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize(
    ("machine", "precision"),
    [
        (given.CPU, "fp32"),
        (given.CARD, "bf16"),
        (given.OLD_CARD, "fp32"),
        (replace(given.OLD_CARD, architectures=("sm_75",)), "fp16"),
        (replace(given.OLD_CARD, architectures=("sm_75", "sm_61")), "fp32"),
    ],
)
def test_automatic_precision_has_a_reason(machine: Any, precision: str) -> None:
    chosen, choice = choose_precision(Precision.auto, machine)
    assert chosen == precision
    assert choice is not None
    assert choice.reason


def test_a_precision_that_was_asked_for_is_no_choice() -> None:
    assert choose_precision(Precision.fp16, given.CARD) == ("fp16", None)


@pytest.mark.parametrize(
    ("machine", "wanted", "count"),
    [
        (given.CPU, Precision.fp32, 0),
        (given.CPU, Precision.auto, 0),
        (given.CPU, Precision.bf16, 1),
        (given.CPU, Precision.fp16, 1),
        (given.CARD, Precision.bf16, 0),
        (given.OLD_CARD, Precision.bf16, 1),
        (given.OLD_CARD, Precision.fp16, 0),
    ],
)
def test_precisions_that_a_machine_does_not_have(machine: Any, wanted: Precision, count: int) -> None:
    assert len(list(precision_problems(wanted, machine))) == count
