"""Facts of another machine in the place of this one's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.detect import detect
from pipeline.errors import UnreadableFile
from pipeline.machine.elsewhere import machine_elsewhere
from pipeline.machine.facts import MachineFacts, facts_record, read_facts
from pipeline.optimizer.choose import trial_on
from pipeline.settings import PlatformName, Until
from pipeline.validate import validate
from tests import given
from tests.test_detect import demo_like
from tests.test_machines import facts_of


def written(facts: MachineFacts, file: Path) -> str:
    file.write_text(json.dumps({"facts": facts_record(facts)}))
    return str(file)


@pytest.fixture
def facts(tmp_path: Path) -> MachineFacts:
    return facts_of("rx_7900_xtx", tmp_path)


def test_facts_are_read_as_they_were_written(facts: MachineFacts, tmp_path: Path) -> None:
    assert read_facts(Path(written(facts, tmp_path / "facts.json"))) == facts


def test_the_other_machine_stands_for_this_one(facts: MachineFacts, tmp_path: Path) -> None:
    file = written(facts, tmp_path / "facts.json")
    machine, problems = machine_elsewhere(given.settings(until=Until.render, hardware__facts=file), file)
    assert (machine.platform, machine.device_names, problems) == ("rocm", ("AMD Radeon RX 7900 XTX",), ())


def test_a_plan_is_made_for_the_other_machine(facts: MachineFacts, tmp_path: Path) -> None:
    settings = demo_like(tmp_path)
    settings.until, settings.hardware.name = Until.render, PlatformName.rocm
    settings.hardware.facts = written(facts, tmp_path / "facts.json")
    plan = validate(settings, detect(settings, tmp_path / "run"))
    assert (plan.machine.platform, plan.precision) == ("rocm", "bf16")
    assert "MIOPEN_FIND_MODE" in {choice.key for choice in plan.choices}


def test_no_optimizer_is_tried_for_the_other_machine(facts: MachineFacts, tmp_path: Path) -> None:
    settings = demo_like(tmp_path)
    settings.until, settings.hardware.name = Until.render, PlatformName.rocm
    settings.hardware.facts = written(facts, tmp_path / "facts.json")
    plan = validate(settings, detect(settings, tmp_path / "run"), trial_on)
    (choice,) = (choice for choice in plan.choices if choice.key == "optimizer")
    assert choice.reason.startswith("not tried")


def test_nothing_is_trained_here_with_them(facts: MachineFacts, tmp_path: Path) -> None:
    file = written(facts, tmp_path / "facts.json")
    _, (problem,) = machine_elsewhere(given.settings(until=Until.log), file)
    assert problem.key == "hardware.facts"
    assert "until=render" in problem.fix


def test_what_is_wrong_there_is_told_here(tmp_path: Path) -> None:
    file = written(facts_of("rx_7900_xtx_cpu_torch", tmp_path), tmp_path / "facts.json")
    _, (problem,) = machine_elsewhere(given.settings(until=Until.render), file)
    assert "RX 7900 XTX (gfx1100) found, but torch 2.13.0+cpu is installed" in problem.reason


def test_a_backends_own_interpreter_speaks_for_it(facts: MachineFacts, tmp_path: Path) -> None:
    other = facts_of("rx_7900_xtx_cpu_torch", tmp_path).answer
    assert other is not None
    both = MachineFacts(facts.found, other, others={"native": facts.answer} if facts.answer else {})
    file = written(both, tmp_path / "facts.json")
    machine, _ = machine_elsewhere(given.settings(until=Until.render), file)
    assert machine.platform == "rocm"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"facts": {}}', '{"facts": {"version": 99}}', '{"facts": 5}'])
def test_what_is_no_facts_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(text)
    with pytest.raises(UnreadableFile, match="doctor --json"):
        read_facts(tmp_path / "facts.json")


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    settings = given.settings(hardware__facts=str(tmp_path / "nowhere"), hardware__name=PlatformName.auto)
    problems = [problem for problem in detect(settings, tmp_path).problems if problem.key == "hardware.facts"]
    assert "No such file" in problems[0].reason
    assert "doctor --json" in problems[0].fix
