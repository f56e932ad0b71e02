"""What each trial of several at once gets of the machine: by recorded machines, and by the answer of a checkout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from pipeline.errors import InvalidSettings
from pipeline.machine.cards import Found
from pipeline.machine.facts import facts_here, machine_from
from pipeline.machine.host import SHARE_VARIABLE
from pipeline.records import Machine
from pipeline.settings import PROJECT, PlatformName
from pipeline.sweep.launch import _machines
from pipeline.sweep.slots import slots_for, slots_of
from tests import given
from tests.test_kohya_checkout import ANSWER, CARDS, answering
from tests.test_machines import judged

TWO_CARDS = "two_rtx_4090_user_options"


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return judged(TWO_CARDS, tmp_path)[0]


def masks(machines: dict[str, Machine]) -> list[str | None]:
    return [slot.env.get("CUDA_VISIBLE_DEVICES") for slot in slots_for(machines, None)[0]]


# ---------------------------------------------------------------------------------------------------------------- cards


def test_each_trial_of_kohya_has_a_card_of_its_own(cards: Machine) -> None:
    assert masks({"kohya": cards}) == ["0", "1"]


def test_trials_of_two_backends_that_see_the_same_cards_have_one_each(cards: Machine) -> None:
    assert masks({"native": cards, "kohya": cards}) == ["0", "1"]


def test_trials_of_backends_that_see_other_devices_run_one_at_a_time_and_that_is_told(cards: Machine) -> None:
    slots, note = slots_for({"native": given.CPU, "kohya": cards}, None)
    assert [(slot.env, slot.cores) for slot in slots] == [({}, ())]
    assert note == "one trial at a time: backend=native trains on the CPU, backend=kohya trains on 2 cuda cards"
    with pytest.raises(InvalidSettings, match=r"hydra\.launcher\.at_once=2: 1 where backends see other devices"):
        slots_for({"native": given.CPU, "kohya": cards}, 2)


# ---------------------------------------------------------------------------------------- who is asked what there is


@pytest.fixture
def kohya(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides of a checkout whose interpreter sees two cards, where our own torch may see none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    python = answering(tmp_path / "python", {**ANSWER, "platform": "cuda", "devices": CARDS})
    return ["backend=kohya", f"backend.root={PROJECT / 'tests' / 'sd_scripts'}", f"backend.python={python}"]


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Any]:
    """A function that asks as a sweep does."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

        def asked(*trials: list[str]) -> dict[str, Machine]:
            config = loader.load_configuration("config", list(trials[0]), RunMode.MULTIRUN)
            return _machines(loader, config, trials)

        yield asked


def test_the_interpreter_of_the_checkout_says_which_cards_there_are(kohya: list[str], composed: Any) -> None:
    machines = composed([*kohya, "seed=0"], [*kohya, "seed=1"])
    assert {name: machine.device_names for name, machine in machines.items()} == {"kohya": ("A card", "An older card")}
    assert len(slots_for(machines, None)[0]) == 2


def test_both_backends_of_a_grid_are_asked(kohya: list[str], composed: Any) -> None:
    machines = composed(["backend=native", "hardware=cpu"], [*kohya, "hardware=auto"])
    assert {name: machine.platform for name, machine in machines.items()} == {"native": "cpu", "kohya": "cuda"}


# --------------------------------------------------------------------------------------------------------------- memory


def test_trials_at_once_on_a_cpu_share_its_memory() -> None:
    shares = [slot.env[SHARE_VARIABLE] for slot in slots_of(given.CPU, 2)]
    assert shares == [str(given.CPU.memory_bytes // 2)] * 2


def test_one_trial_has_all_of_the_memory_and_a_card_its_own(cards: Machine) -> None:
    assert SHARE_VARIABLE not in slots_of(given.CPU, 1)[0].env
    assert not any(SHARE_VARIABLE in slot.env for slot in slots_of(cards, 2))


def test_a_trial_counts_on_its_share_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHARE_VARIABLE, str(2**20))
    machine, _ = machine_from(facts_here(Found(), None), PlatformName.cpu)
    assert (machine.memory_bytes, machine.host_memory_bytes) == (2**20, 2**20)
    assert machine.free_words == "0.0 GiB free for this one of several trials at once"
    monkeypatch.setenv(SHARE_VARIABLE, str(2**60))
    machine, _ = machine_from(facts_here(Found(), None), PlatformName.cpu)
    assert 2**20 < machine.memory_bytes < 2**60, "less is free than its share: others have taken of it"
    assert not machine.memory_is_share
