"""Each machine of `tests/machines` comes to its platform, precision, attention, variables and problems."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Problem
from pipeline.machine import cards
from pipeline.machine.architectures import (
    ARCHITECTURES,
    architecture,
    gfx_name,
    install_command,
    intel_family_named,
)
from pipeline.machine.cards import Found, Said, find_cards
from pipeline.machine.facts import MachineFacts, answer_from, machine_from
from pipeline.machine.precision import choose_precision
from pipeline.machine.variables import NAMES
from pipeline.records import Machine
from pipeline.settings import PlatformName, Precision

FOLDER = Path(__file__).with_name("machines")
CUDA = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
ROCM = {"TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "1", "MIOPEN_FIND_MODE": "FAST"}
XPU = {
    "ONEAPI_DEVICE_SELECTOR": "level_zero:gpu",
    "SYCL_CACHE_PERSISTENT": "1",
    "PYTORCH_ENABLE_XPU_FALLBACK": "1",
}


def recorded(name: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return (recorded(said["like"]) | said) if "like" in said else said


def found_on(name: str, root: Path) -> Found:
    """The first layer, from files and tools that are made anew."""
    said = recorded(name)
    for path, text in said["files"].items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)

    def run(argv: Sequence[str]) -> Said:
        printed = said.get("tools", {}).get(Path(argv[0]).name)
        return Said("", "not there") if printed is None else Said(printed)

    return find_cards(root, run=run, environment=said.get("environment", {}), names=NAMES)


def facts_of(name: str, root: Path) -> MachineFacts:
    return MachineFacts(found_on(name, root), answer_from(recorded(name)["torch"]), cpu_name="A processor")


def judged(name: str, root: Path, wanted: PlatformName = PlatformName.auto) -> tuple[Machine, tuple[Problem, ...]]:
    return machine_from(facts_of(name, root), wanted)


@dataclass(frozen=True)
class Row:
    """What a machine comes to with hardware=auto."""

    machine: str
    platform: str
    precision: str
    attention: str = ""
    variables: dict[str, str] | None = None
    problem: str = ""
    """Words of the only problem; none where it is empty."""
    fix: str = ""
    """What it says to type."""


TABLE = (
    Row("rtx_4090", "cuda", "bf16", "flash efficient math", CUDA),
    Row("t4", "cuda", "fp16", "efficient math", CUDA),
    Row("gtx_1080_ti", "cuda", "fp32", "efficient math", CUDA),
    Row("rx_7900_xtx", "rocm", "bf16", "flash efficient math", ROCM),
    Row("rx_6800", "rocm", "fp16", "math", ROCM),
    Row("rx_6700_xt", "rocm", "fp16", "math", ROCM | {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}),
    Row("apu_780m", "rocm", "bf16", "flash efficient math", ROCM),
    Row("apu_780m_cpu_torch", "cpu", "fp32"),
    Row("mi300x", "rocm", "bf16", "flash efficient math", ROCM),
    Row("arc_a770", "xpu", "bf16", "onednn math", XPU),
    Row("arc_b580", "xpu", "bf16", "flash onednn math", XPU),
    Row("uhd_graphics", "cpu", "fp32"),
    Row("laptop", "cuda", "bf16", "flash efficient math", CUDA),
    Row("container_without_devices", "cpu", "fp32"),
    # On WSL no segments grow; beside a card a processor's graphics are hidden from torch.
    Row("wsl", "cuda", "bf16", "flash efficient math", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
    Row(
        "rx_7900_xtx_beside_graphics",
        "rocm",
        "bf16",
        "flash efficient math",
        ROCM | {"HIP_VISIBLE_DEVICES": "1"},
    ),
    # What the user has set is left, merged, or taken out where it hangs the machine.
    Row(
        "two_rtx_4090_user_options",
        "cuda",
        "bf16",
        "flash efficient math",
        {
            "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512,expandable_segments:True",
            "NCCL_P2P_DISABLE": "1",
            "NCCL_IB_DISABLE": "1",
        },
    ),
    Row(
        "rx_7900_xtx_user_options",
        "rocm",
        "bf16",
        "flash efficient math",
        {"PYTORCH_HIP_ALLOC_CONF": "max_split_size_mb:512", "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "1"},
        "HSA_OVERRIDE_GFX_VERSION=11.0.0 is set, and torch 2.13.0+rocm7.2 has kernels for AMD Radeon RX 7900",
        "unset HSA_OVERRIDE_GFX_VERSION",
    ),
    # The wrong torch.
    Row(
        "rtx_4090_cpu_torch",
        "cpu",
        "fp32",
        problem="NVIDIA GeForce RTX 4090 (sm_89) found, but torch 2.13.0+cpu is installed",
        fix="pip install torch --index-url https://download.pytorch.org/whl/cu130; or hardware=cpu",
    ),
    Row(
        "rtx_4090_old_driver",
        "cpu",
        "fp32",
        problem="needs driver 580 or newer for its CUDA 13.0; here is 550.54.15",
        fix='pip install "torch<2.15" --index-url https://download.pytorch.org/whl/cu126; or hardware=cpu',
    ),
    Row(
        "gtx_1080_ti_new_torch",
        "cuda",
        "fp32",
        "efficient math",
        CUDA,
        "torch 2.13.0+cu130 has no kernels for sm_61, only for sm_75",
        'pip install "torch<2.15" --index-url https://download.pytorch.org/whl/cu126; or hardware=cpu',
    ),
    Row(
        "rtx_5090_cu126",
        "cuda",
        "bf16",
        "flash efficient math",
        CUDA,
        "torch 2.13.0+cu126 has no kernels for sm_120",
        "pip install torch --index-url https://download.pytorch.org/whl/cu130; or hardware=cpu",
    ),
    Row(
        "rx_7900_xtx_cpu_torch",
        "cpu",
        "fp32",
        problem="AMD Radeon RX 7900 XTX (gfx1100) found, but torch 2.13.0+cpu is installed",
        fix="pip install torch --index-url https://download.pytorch.org/whl/rocm7.2; or hardware=cpu",
    ),
    Row(
        "rx_5700_xt",
        "rocm",
        "fp16",
        "math",
        ROCM,
        "torch 2.13.0+rocm7.2 has no kernels for gfx1010",
        "hardware=cpu",
    ),
    Row(
        "laptop_rocm_torch",
        "rocm",
        "fp16",
        "math",
        ROCM | {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"},
        "NVIDIA GeForce RTX 4060 Laptop GPU (sm_89) found, but torch 2.13.0+rocm7.2 is installed, which is not built",
        "pip install torch --index-url https://download.pytorch.org/whl/cu130; or hardware=cpu",
    ),
    Row(
        "arc_a770_cuda_torch",
        "cpu",
        "fp32",
        problem="Intel Arc A770 (alchemist) found, but torch 2.13.0+cu130 is installed, which is not built for xpu",
        fix="pip install torch --index-url https://download.pytorch.org/whl/xpu; or hardware=cpu",
    ),
)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.machine)
def test_a_machine_comes_to_its_settings(row: Row, tmp_path: Path) -> None:
    machine, problems = judged(row.machine, tmp_path)
    precision, _ = choose_precision(Precision.auto, machine)
    variables = {variable.name: variable.value for variable in machine.variables}
    assert (machine.platform, precision, " ".join(machine.attention)) == (row.platform, row.precision, row.attention)
    assert variables == (row.variables or {})
    assert [problem.fix for problem in problems] == [row.fix] * bool(row.problem)
    assert all(row.problem in problem.reason for problem in problems)


def test_every_machine_has_a_row() -> None:
    assert {row.machine for row in TABLE} == {file.stem for file in FOLDER.glob("*.json")}


def test_every_machine_says_how_it_was_come_by() -> None:
    assert all(recorded(row.machine)["how"] for row in TABLE)


@pytest.mark.parametrize("row", [row for row in TABLE if row.platform == "rocm"], ids=lambda row: row.machine)
def test_no_variable_of_nvidia_reaches_another_vendor(row: Row, tmp_path: Path) -> None:
    machine, _ = judged(row.machine, tmp_path)
    assert not [variable for variable in machine.variables if variable.name.startswith(("CUDA", "NCCL"))]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.machine)
def test_a_wanted_cpu_leaves_every_card_alone(row: Row, tmp_path: Path) -> None:
    machine, problems = judged(row.machine, tmp_path, PlatformName.cpu)
    assert (machine.platform, machine.variables, problems) == ("cpu", (), ())


def test_a_platform_that_is_not_here_says_what_is(tmp_path: Path) -> None:
    _, (problem,) = judged("rtx_4090", tmp_path, PlatformName.rocm)
    assert "can't drive rocm here; it can drive cuda (NVIDIA GeForce RTX 4090)" in problem.reason
    assert "found: NVIDIA GeForce RTX 4090 (sm_89)" in problem.reason


def test_a_card_that_may_not_be_opened_is_named(tmp_path: Path) -> None:
    _, (problem,) = judged("container_without_devices", tmp_path, PlatformName.rocm)
    assert "AMD Instinct MI300X OAM (gfx942), which may not be opened" in problem.reason


def test_a_wanted_platform_may_be_the_processors_graphics(tmp_path: Path) -> None:
    machine, problems = judged("laptop_rocm_torch", tmp_path, PlatformName.rocm)
    assert (machine.platform, problems) == ("rocm", ())


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_card_that_the_user_hides_is_not_missed(hidden: str, tmp_path: Path) -> None:
    facts = facts_of("rtx_4090_cpu_torch", tmp_path)
    facts = replace(facts, found=replace(facts.found, environment={"CUDA_VISIBLE_DEVICES": hidden}))
    assert machine_from(facts, PlatformName.auto)[1] == ()
    _, (problem,) = machine_from(facts, PlatformName.cuda)
    assert "CUDA_VISIBLE_DEVICES hides every card" in problem.reason
    assert problem.fix.startswith("unset CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize("arch", ["sm_35", "gfx1010"])
def test_a_card_that_no_torch_drives_is_not_missed(arch: str) -> None:
    card = cards.Card("amd" if arch.startswith("gfx") else "nvidia", "An old card", arch)
    cpu = answer_from({"torch": "2.13.0+cpu", "platform": "cpu", "devices": []})
    facts = MachineFacts(Found((card,)), cpu)
    assert machine_from(facts, PlatformName.auto)[1] == ()
    _, (problem,) = machine_from(facts, PlatformName(card.platform))
    assert problem.fix == "no wheel of torch is known for it; or hardware=cpu"


@pytest.mark.parametrize(
    ("given", "left"),
    [("expandable_segments:True", "expandable_segments:False"), ("a:1,expandable_segments:true,b:2", "a:1,b:2")],
)
def test_segments_that_hang_are_taken_out(given: str, left: str, tmp_path: Path) -> None:
    facts = facts_of("rx_7900_xtx", tmp_path)
    facts = replace(facts, found=replace(facts.found, environment={"PYTORCH_ALLOC_CONF": given}))
    variables = {variable.name: variable.value for variable in machine_from(facts, PlatformName.auto)[0].variables}
    assert variables["PYTORCH_ALLOC_CONF"] == left


@pytest.mark.parametrize("given", ["expandable_segments:False", "expandable_segments:True,max_split_size_mb:64"])
def test_what_the_user_says_of_segments_stands(given: str, tmp_path: Path) -> None:
    facts = facts_of("rtx_4090", tmp_path)
    facts = replace(facts, found=replace(facts.found, environment={"PYTORCH_ALLOC_CONF": given}))
    assert "PYTORCH_ALLOC_CONF" not in {each.name for each in machine_from(facts, PlatformName.auto)[0].variables}


def test_an_older_torch_knows_the_older_name(tmp_path: Path) -> None:
    facts = facts_of("rtx_4090", tmp_path)
    assert facts.answer is not None
    machine, _ = machine_from(replace(facts, answer=replace(facts.answer, torch="2.8.0+cu128")), PlatformName.auto)
    assert "PYTORCH_CUDA_ALLOC_CONF" in {each.name for each in machine.variables}


def test_another_interpreter_gets_its_own_command(tmp_path: Path) -> None:
    facts = facts_of("rx_7900_xtx_cpu_torch", tmp_path)
    _, (problem,) = machine_from(facts, PlatformName.auto, python="/sd/venv/bin/python")
    assert problem.fix.startswith("/sd/venv/bin/python -m pip install torch --index-url")


@pytest.mark.parametrize(
    ("machine", "words"), [("rx_6800", "no fast attention"), ("apu_780m", "part of the processor")]
)
def test_what_is_worth_knowing_is_a_warning(machine: str, words: str, tmp_path: Path) -> None:
    assert any(words in text for text in judged(machine, tmp_path)[0].warnings)


# ----------------------------------------------------------------------------------------------------------- layer one


def test_what_the_tool_of_nvidia_says(tmp_path: Path) -> None:
    (card,) = found_on("t4", tmp_path).cards
    assert (card.name, card.arch, card.driver, card.openable) == ("Tesla T4", "sm_75", "580.95.05", True)
    assert card.memory_bytes == card.free_bytes == 15360 * 2**20


def test_an_old_driver_is_asked_without_the_capability(tmp_path: Path) -> None:
    def run(argv: Sequence[str]) -> Said:
        if "compute_cap" in argv[1]:
            return Said('Field "compute_cap" is not a valid field to query.', "status 2")
        return Said("Tesla K80, 11441, 0, 418.67\n")

    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    (card,) = find_cards(tmp_path, run=run, environment={}).cards
    assert (card.name, card.arch) == ("Tesla K80", "")


def test_where_the_tool_fails_the_kernel_module_speaks(tmp_path: Path) -> None:
    information = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0/information"
    information.parent.mkdir(parents=True)
    information.write_text("Model: \t\t NVIDIA A100-SXM4-80GB\nDevice Minor: \t 0\n")
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA Kernel Module  550.54.15  Release\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    found = find_cards(tmp_path, run=lambda _: Said("", "Driver/library version mismatch"), environment={})
    assert found.complaint == "Driver/library version mismatch"
    assert (found.cards[0].name, found.cards[0].driver) == ("NVIDIA A100-SXM4-80GB", "550.54.15")


def test_no_tool_is_asked_where_there_is_no_device(tmp_path: Path) -> None:
    def run(argv: Sequence[str]) -> Said:
        raise AssertionError(argv)

    assert find_cards(tmp_path, run=run, environment={}) == Found()


def test_processors_are_no_cards(tmp_path: Path) -> None:
    assert [card.arch for card in found_on("rx_6800", tmp_path).cards] == ["gfx1030"]


def test_graphics_of_intel_that_torch_can_not_drive_are_integrated(tmp_path: Path) -> None:
    (card,) = found_on("uhd_graphics", tmp_path).cards
    assert (card.integrated, card.arch) == (True, "")


def test_only_what_can_be_opened_is_usable(tmp_path: Path) -> None:
    found = found_on("container_without_devices", tmp_path)
    assert sorted(card.vendor for card in found.cards) == ["amd", "nvidia"]
    assert found.usable == ()


def test_a_name_of_libdrm_comes_first(tmp_path: Path) -> None:
    table = tmp_path / "usr/share/libdrm/amdgpu.ids"
    table.parent.mkdir(parents=True)
    table.write_text("# comment\n744C,\tC8,\tAMD Radeon RX 7900 XTX of the list\n")
    assert found_on("rx_7900_xtx", tmp_path).cards[0].name == "AMD Radeon RX 7900 XTX of the list"


def test_a_tool_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "TOOL_SECONDS", 0.2)
    assert "did not answer within 0.2 s" in cards.run_tool(["sleep", "60"]).failed


def test_a_tool_that_is_not_there_is_told() -> None:
    assert cards.run_tool(["no-such-tool-at-all"]).failed == "not there"


# --------------------------------------------------------------------------------------------------------- the tables


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (110000, "gfx1100"),
        (90010, "gfx90a"),
        (90402, "gfx942"),
        (90500, "gfx950"),
        (100301, "gfx1031"),
        (110501, "gfx1151"),
        (120001, "gfx1201"),
    ],
)
def test_the_kernels_number_of_a_target(version: int, name: str) -> None:
    assert gfx_name(version) == name


@pytest.mark.parametrize(
    ("arch", "platform", "driver", "words"),
    [
        ("sm_120", "cuda", "570.10", '"torch<2.12" --index-url https://download.pytorch.org/whl/cu128'),
        ("sm_120", "cuda", "580.10", "torch --index-url https://download.pytorch.org/whl/cu130"),
        ("sm_70", "cuda", "580.10", '"torch<2.15" --index-url https://download.pytorch.org/whl/cu126'),
        ("gfx1152", "rocm", "", '"torch[device-gfx1152]" --index-url https://repo.amd.com/rocm/whl-multi-arch/'),
        ("gfx1399", "rocm", "", "torch --index-url https://download.pytorch.org/whl/rocm7.2"),
    ],
)
def test_the_wheel_for_a_card(arch: str, platform: str, driver: str, words: str) -> None:
    assert install_command(arch, platform, driver) == f"pip install {words}"


def test_no_wheel_is_named_where_none_is_known() -> None:
    assert install_command("gfx1010", "rocm") == ""


@pytest.mark.parametrize("row", ARCHITECTURES, ids=lambda row: row.pattern)
def test_every_architecture_can_fall_back_to_plain_products(row: Any) -> None:
    assert row.attention[-1] == "math"


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Intel(R) Arc(TM) A770 Graphics", "alchemist"),
        ("Intel(R) Data Center GPU Flex 170", "alchemist"),
        ("Intel(R) Arc(TM) B580 Graphics", "battlemage"),
        ("Intel(R) Arc(TM) Pro B60 Graphics", "battlemage"),
        ("Intel(R) Data Center GPU Max 1550", "ponte_vecchio"),
        ("Intel(R) Arc(TM) 140V GPU (16GB)", "core_ultra"),
        ("Intel(R) Arc(TM) B390 GPU", "core_ultra"),
        ("Intel(R) Arc(TM) Graphics", "core_ultra"),
        ("Something new", ""),
    ],
)
def test_the_family_by_the_name_that_torch_gives(name: str, family: str) -> None:
    assert intel_family_named(name) == family


def test_an_unknown_architecture_is_not_guessed() -> None:
    assert architecture("gfx1399") is None
