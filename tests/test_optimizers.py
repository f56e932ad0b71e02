"""Which optimizer a run has: what is known of them, the trial, its verdict, and the way down the chain."""

from __future__ import annotations

import json
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipeline.backends.kohya.rules.optimizers import NAMED_OPTIMIZERS
from pipeline.backends.kohya.translation import OPTIMIZERS
from pipeline.errors import InvalidSettings, Problem
from pipeline.optimizer.catalog import Option, asked_for, chain_of, options
from pipeline.optimizer.choose import Chosen, choose_optimizer, faults_of, trial_on
from pipeline.optimizer.trial import SHAPE, Bench, NotInstalled, Steps, TrialError, take_steps
from pipeline.records import Checkout, Plan
from pipeline.settings import PROJECT, Fallback, RateMeaning, Scheduler, Settings
from pipeline.validate import validate
from tests import given
from tests.golden_kohya import plan_of

GOOD = Steps(52.0, 39.0, 2.05, paged=False, fused=None, cosine=0.9999, norm_ratio=1.004)
ALONE = replace(GOOD, state_bytes_per_parameter=8.0, cosine=None, norm_ratio=None)
BROKEN = TrialError("RuntimeError: no kernel")


def installed(option: Option) -> bool:
    return find_spec(option.package) is not None


# ----------------------------------------------------------------------------------------------------------- catalog


@pytest.mark.parametrize("name", options())
def test_a_chain_ends_and_keeps_the_meaning_of_the_rate(name: str) -> None:
    """Another meaning or factor is only for those who write it into their own configuration."""
    option, seen = options()[name], {name}
    while option.falls_back_to is not None:
        following = options()[option.falls_back_to]
        assert following.name not in seen
        assert option.known and following.known
        assert (option.known.rate, option.known.times_adamws) == (following.known.rate, following.known.times_adamws)
        option, seen = following, seen | {following.name}


@pytest.mark.parametrize("name", options())
def test_what_takes_8_bits_has_a_twin_to_be_compared_with(name: str) -> None:
    known = options()[name].known
    assert known is not None
    assert (known.twin is not None) == name.endswith("8bit")


def test_rarer_packages_are_an_extra_and_the_others_come_with_us() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extra = {line.partition(">")[0] for line in project["optional-dependencies"]["optimizers"]}
    ours = {line.partition(">")[0] for line in project["dependencies"]}
    named = {option.known.package for option in options().values() if option.known and option.known.package}
    assert named == extra
    assert {option.package for option in options().values() if option.known and not option.known.package} <= ours


def test_facts_are_those_of_the_class_and_not_of_the_option_whose_target_was_changed() -> None:
    asked = asked_for(given.settings(optimizer__target="prodigyopt.Prodigy").optimizer)
    assert asked.name == "prodigy"
    assert asked.known is not None and asked.known.rate is RateMeaning.multiplier


def test_of_any_other_class_nothing_is_known() -> None:
    asked = asked_for(given.settings(optimizer__target="mine.Own").optimizer)
    assert (asked.name, asked.known, asked.falls_back_to) == ("mine.Own", None, None)


def test_a_file_of_the_users_has_facts_of_its_own() -> None:
    settings = given.settings(optimizer__name="my_own", optimizer__target="mine.Own")
    assert asked_for(settings.optimizer).known == settings.optimizer.known


@pytest.mark.parametrize(
    ("name", "rates"),
    [("adamw", (1e-3, 2e-4)), ("lion", (3.33e-4, 6.66e-5)), ("prodigy", (1.0, 1.0)), ("came", (6e-4, 1.2e-4))],
)
def test_the_profiles_rates_are_adamws_and_converted(name: str, rates: tuple[float, float]) -> None:
    figures = "{lora: {lr: 1e-3, text_encoder_lr: 2e-4}}"
    settings = given.settings(f"optimizer={name}", f"model.figures={figures}")
    assert (settings.optimizer.lr, settings.mode.text_encoder_lr) == pytest.approx(rates)


# ----------------------------------------------------------------------------------------------------------- verdict


def test_good_steps_have_no_faults() -> None:
    assert list(faults_of(GOOD, options()["adamw8bit"], pages=True)) == []


@pytest.mark.parametrize(
    ("name", "steps", "told"),
    [
        ("adamw", replace(ALONE, loss_after=52.0), "the loss does not fall"),
        ("adamw", replace(ALONE, loss_after=float("nan")), "the loss does not fall"),
        ("adamw8bit", replace(GOOD, state_bytes_per_parameter=8.0), "its state is not in 8 bits"),
        ("adamw8bit", replace(GOOD, cosine=0.5), "its updates are not those of AdamW32bit"),
        ("adamw8bit", replace(GOOD, norm_ratio=1.2), "its updates are not those of AdamW32bit"),
        ("adamw8bit", replace(GOOD, cosine=float("nan")), "its updates are not those of AdamW32bit"),
        ("adamw8bit", replace(GOOD, cosine=None), "were not compared"),
        ("paged_adamw8bit", GOOD, "its state is not paged"),
    ],
)
def test_faults_are_told(name: str, steps: Steps, told: str) -> None:
    (fault,) = faults_of(steps, options()[name], pages=True)
    assert told in fault


def test_on_a_cpu_nothing_need_be_paged() -> None:
    assert list(faults_of(GOOD, options()["paged_adamw8bit"], pages=False)) == []


# ------------------------------------------------------------------------------------------------------------- chain


def trial_with(answers: Mapping[str, Steps | TrialError]) -> Any:
    """Optimizers that do as they are told, by name; the others work."""

    def trial(option: Option, lr: float) -> Steps:
        answer = answers.get(option.name, replace(ALONE, fused=option.args.get("fused")))
        if isinstance(answer, TrialError):
            raise answer
        return answer

    return trial


def chosen(settings: Settings, **answers: Steps | TrialError) -> Chosen:
    made = choose_optimizer(settings, trial_with(answers), trained_parameters=2**20)
    assert isinstance(made, Chosen), made
    return made


def refused(settings: Settings, **answers: Steps | TrialError) -> Problem:
    made = choose_optimizer(settings, trial_with(answers), trained_parameters=2**20)
    assert isinstance(made, Problem), made
    return made


def test_an_optimizer_that_works_stays_and_the_proof_is_a_choice() -> None:
    settings = given.settings("optimizer=adamw8bit")
    made = chosen(settings, adamw8bit=GOOD)
    assert (made.settings, made.warnings) == (settings, ())
    (choice,) = made.choices
    assert (choice.key, choice.value) == ("optimizer", "adamw8bit")
    assert (
        "2.05 bytes of state a parameter, updates as AdamW32bit's: cosine 0.9999, length 1.004 times" in choice.reason
    )


def test_one_that_fails_gives_way_with_its_reason_and_the_cost() -> None:
    made = chosen(given.settings("optimizer=adamw8bit"), adamw8bit=BROKEN)
    (warning,) = made.warnings
    assert warning == (
        "optimizer=adamw in place of adamw8bit, 5.97 bytes a parameter more, about 6 MiB here: RuntimeError: no kernel"
    )
    assert made.choices[0].value == "adamw"
    assert warning.removeprefix("optimizer=adamw ") in made.choices[0].reason


def test_the_settings_are_those_of_the_optimizer_that_is_used() -> None:
    optimizer = chosen(given.settings("optimizer=adamw8bit"), adamw8bit=BROKEN).settings.optimizer
    assert (optimizer.name, optimizer.target) == ("adamw", "torch.optim.AdamW")
    assert optimizer.args == {"betas": [0.9, 0.99], "weight_decay": 0.1, "fused": True}


def test_arguments_of_8_bits_are_left_behind() -> None:
    settings = given.settings("optimizer=adamw8bit", "+optimizer.args.min_8bit_size=1024")
    assert "min_8bit_size" not in chosen(settings, adamw8bit=BROKEN).settings.optimizer.args


def test_every_step_of_a_long_way_down_is_told() -> None:
    made = chosen(given.settings("optimizer=paged_adamw8bit"), paged_adamw8bit=BROKEN, adamw8bit=BROKEN)
    assert made.settings.optimizer.name == "adamw"
    assert "in place of paged_adamw8bit, 0.00 bytes" in made.warnings[0]
    assert "in place of adamw8bit, 5.97 bytes" in made.warnings[0]


def test_fallback_error_ends_the_run() -> None:
    told = refused(given.settings("optimizer=adamw8bit", optimizer__fallback=Fallback.error), adamw8bit=BROKEN)
    assert (told.key, told.value) == ("optimizer", "adamw8bit")
    assert "RuntimeError: no kernel; optimizer.fallback=error" in told.reason
    assert told.fix == "optimizer.fallback=next, or optimizer=adamw"


def test_the_end_of_a_chain_is_told_with_all_that_was_tried() -> None:
    told = refused(
        given.settings("optimizer=lion8bit"), lion8bit=BROKEN, lion=NotInstalled("lion_pytorch", "pip install x")
    )
    assert "lion8bit does not work here: RuntimeError: no kernel; lion does not work here" in told.reason
    assert told.fix == "pip install x, or optimizer=adamw"


def test_a_package_that_is_missing_is_a_reason_to_step_down_with_the_line_that_installs_it() -> None:
    made = chosen(given.settings("optimizer=adamw8bit"), adamw8bit=NotInstalled("bitsandbytes", "pip install x"))
    (warning,) = made.warnings
    assert warning.startswith("optimizer=adamw in place of adamw8bit, 5.97 bytes a parameter more")
    assert warning.endswith("package bitsandbytes is not installed (pip install x)")


def test_a_chain_is_all_that_could_take_the_place() -> None:
    optimizer = given.settings("optimizer=paged_adamw8bit").optimizer
    assert [option.name for option in chain_of(optimizer)] == ["paged_adamw8bit", "adamw8bit", "adamw"]
    round_about = given.settings("optimizer=adamw", optimizer__falls_back_to="adamw8bit").optimizer
    assert [option.name for option in chain_of(round_about)] == ["adamw", "adamw8bit"]


def test_a_class_that_nothing_is_known_of_has_no_chain() -> None:
    settings = given.settings(optimizer__target="mine.Own")
    assert refused(settings, **{"mine.Own": BROKEN}).value == "mine.Own"


def test_another_scheduler_is_not_taken_along_the_way() -> None:
    told = refused(given.settings("optimizer=prodigy"), prodigy=BROKEN)
    assert "prodigy_plus_schedule_free needs train.scheduler=constant" in told.reason
    steady = given.settings("optimizer=prodigy", train__scheduler=Scheduler.constant)
    assert chosen(steady, prodigy=BROKEN).settings.optimizer.lr == 1.0


def test_another_meaning_of_the_rate_is_never_taken() -> None:
    told = refused(given.settings("optimizer=prodigy", optimizer__falls_back_to="adamw"), prodigy=BROKEN)
    assert "the learning rate of adamw means something else" in told.reason


def test_another_family_is_taken_when_the_configuration_says_so_with_its_own_rate_and_arguments() -> None:
    settings = given.settings("optimizer=lion8bit", "optimizer.lr=1e-4", optimizer__falls_back_to="adamw8bit")
    settings.mode.text_encoder_lr = 1e-5
    made = chosen(settings, lion8bit=BROKEN, adamw8bit=GOOD)
    assert made.settings.optimizer.lr == pytest.approx(1e-4 / 0.333)
    assert made.settings.mode.text_encoder_lr == pytest.approx(1e-5 / 0.333)
    assert made.settings.optimizer.args["weight_decay"] == 0.1
    assert "learning rates x 3" in made.warnings[0]


def test_steps_that_torch_can_not_fuse_are_taken_one_by_one_and_told() -> None:
    made = chosen(given.settings(), adamw=replace(ALONE, fused=False))
    assert made.settings.optimizer.args["fused"] is False
    assert [choice.key for choice in made.choices] == ["optimizer", "optimizer.args.fused"]


# ---------------------------------------------------------------------------------------------------------- validate


def planned(settings: Settings, answers: Mapping[str, Steps | TrialError], facts: Any = None) -> Plan:
    return validate(settings, facts or given.facts(), lambda _bench: trial_with(answers))


def test_the_plan_holds_the_optimizer_that_is_used() -> None:
    plan = planned(given.settings("optimizer=adamw8bit"), {"adamw8bit": BROKEN})
    assert plan.settings.optimizer.name == "adamw"
    assert ("optimizer", "adamw") in [(choice.key, choice.value) for choice in plan.choices]
    assert any("in place of adamw8bit" in warning for warning in plan.warnings)


def test_what_does_not_work_is_a_problem_of_the_configuration() -> None:
    with pytest.raises(InvalidSettings) as told:
        planned(given.settings(), {"adamw": BROKEN})
    assert [problem.key for problem in told.value.problems] == ["optimizer"]


def test_nothing_is_tried_while_there_are_other_problems() -> None:
    with pytest.raises(InvalidSettings) as told:
        planned(given.settings(train__batch_size=0), {"adamw": BROKEN})
    assert [problem.key for problem in told.value.problems] == ["train.batch_size"]


def test_what_takes_its_place_must_go_with_the_other_settings() -> None:
    settings = given.settings(
        "optimizer=lion8bit", optimizer__falls_back_to="adamw", optimizer__lr=9.0, train__max_grad_norm=1.0
    )
    with pytest.raises(InvalidSettings) as told:
        planned(settings, {"lion8bit": BROKEN})
    assert [problem.key for problem in told.value.problems] == ["optimizer.lr"]


def test_a_job_that_is_rendered_for_another_machine_is_not_tried_on_this_one() -> None:
    settings = given.settings("backend=kohya", "model=sd15", "model.path=x.safetensors", train__warmup_fraction=0.0)
    checkpoint = replace(given.CHECKPOINT, layout="single_file", models=("sd15",), title="Stable Diffusion 1")
    plan = planned(settings, {"adamw": BROKEN}, given.facts(checkpoint=checkpoint, machine=given.CARD))
    (choice,) = (choice for choice in plan.choices if choice.key == "optimizer")
    assert choice.reason.startswith("not tried")


@pytest.mark.parametrize("name", ["block_wise", "percentile_clipping"])
def test_arguments_that_bitsandbytes_has_no_more_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(InvalidSettings) as told:
        planned(given.settings("optimizer=adamw8bit", f"+optimizer.args.{name}=100"), {})
    (problem,) = told.value.problems
    assert problem.key == f"optimizer.args.{name}"
    assert "since 0.50" in problem.reason


def test_a_schedule_beside_a_schedule_free_one_is_refused() -> None:
    target = "schedulefree.AdamWScheduleFree"
    told = native_problems(given.settings(optimizer__target=target))
    assert told["train.scheduler"].fix == "train.scheduler=constant"
    assert "train.scheduler" not in native_problems(
        given.settings(optimizer__target=target, train__scheduler=Scheduler.constant)
    )


def test_a_rate_in_place_of_a_multiplier_is_refused() -> None:
    told = native_problems(given.settings(optimizer__target="prodigyopt.Prodigy"))
    assert told["optimizer.lr"].fix == "optimizer.lr=1.0"


def test_prodigy_takes_one_rate_for_all() -> None:
    told = native_problems(given.settings("optimizer=prodigy", mode__text_encoder_lr=0.5))
    assert told["mode.text_encoder_lr"].fix == "mode.text_encoder_lr=1"
    assert "mode.text_encoder_lr" not in native_problems(given.settings("optimizer=prodigy", mode__text_encoder_lr=1.0))


def test_a_package_that_is_missing_is_called_as_pip_calls_it() -> None:
    option = replace(options()["prodigy_plus_schedule_free"], target="no_such_package.Own")
    assert option.known is not None
    settings = given.settings(
        optimizer__name="own", optimizer__target="no_such_package.Own", optimizer__known=option.known
    )
    assert native_problems(settings)["optimizer.target"].fix.startswith("pip install prodigy-plus-schedule-free")


def missing(**changed: Any) -> Settings:
    """An optimizer of the user's own whose package is not there, with AdamW to take its place."""
    own = {"name": "own", "target": "no_such_package.Own", "falls_back_to": "adamw"}
    return given.settings(**{f"optimizer__{name}": value for name, value in {**own, **changed}.items()})


@pytest.mark.parametrize(
    ("changed", "ends"),
    [
        ({}, False),
        ({"fallback": Fallback.error}, True),
        ({"falls_back_to": None}, True),
        ({"falls_back_to": "prodigy"}, True),
        ({"name": "adamw"}, True),  # a class by its name: nothing is known of it
    ],
)
def test_a_missing_package_ends_the_run_where_nothing_may_take_its_place(changed: dict[str, Any], ends: bool) -> None:
    assert ("optimizer.target" in native_problems(missing(**changed))) is ends


def native_problems(settings: Settings) -> dict[str, Problem]:
    from pipeline.backends.native.support import native_problems as problems_of

    return {problem.key: problem for problem in problems_of(settings, given.facts())}


# ------------------------------------------------------------------------------------------------------------- kohya


@pytest.mark.parametrize("name", options())
def test_sd_scripts_takes_every_optimizer_by_a_name_of_its_own_or_a_path(name: str) -> None:
    target = options()[name].target
    written = OPTIMIZERS.get(target, target)
    assert written in NAMED_OPTIMIZERS or written.count(".") >= 1


@pytest.mark.parametrize("name", options())
def test_every_optimizer_goes_by_the_rules_of_sd_scripts(name: str) -> None:
    known = options()[name].known
    assert known is not None
    steady = ("train.scheduler=constant", "train.warmup_fraction=0") if known.schedulers else ()
    rate = ("optimizer.lr=0.1",) if name == "sgd" else ()
    plan = plan_of("sdxl", "lora", f"optimizer={name}", *steady, *rate)
    assert plan.settings.optimizer.name == name


# ------------------------------------------------------------------------------------------------------------- trial


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def interpreter(folder: Path, script: str) -> Path:
    """Stands in for Python: counts its runs, then does as the script says."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "python"
    file.write_text(f"#!/bin/sh\necho x >> {folder}/runs\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def bench(tmp_path: Path, script: str, *, seconds: float = 20) -> Bench:
    checkout = Checkout(
        root=tmp_path,
        python=interpreter(tmp_path / "bin", script),
        commit="",
        version="",
        platform="cpu",
        device_names=("A processor",),
        memory_bytes=2**30,
        bf16=False,
        packages={"bitsandbytes": "0.50.2"},
        broken={},
        torch_version="2.13.0",
        python_version="3.11",
    )
    return Bench(given.CPU, checkout, seconds)


def runs(tmp_path: Path) -> int:
    return len((tmp_path / "bin" / "runs").read_text().splitlines())


def said(**values: Any) -> str:
    answer = {
        **{"loss_before": 52.0, "loss_after": 39.0, "state_bytes_per_parameter": 2.05, "paged": False, "fused": None},
        **{"cosine": 0.9999, "norm_ratio": 1.004},
    }
    return f"echo a library says hello\necho '{json.dumps(answer | values)}'"


def test_the_answer_is_the_last_line(tmp_path: Path) -> None:
    assert take_steps(options()["adamw8bit"], 1e-4, bench(tmp_path, said())) == GOOD


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ('echo \'{"error": "RuntimeError: no kernel"}\'', "RuntimeError: no kernel"),
        ("echo hello", "can't be read: 'hello'"),
        ("true", "can't be read"),
        ("echo a library is broken >&2; exit 3", "a library is broken"),
        ("kill -SEGV $$", "died of signal 11"),
        ("sleep 60", "hardware.probe_seconds"),
    ],
)
def test_why_it_could_not_take_the_steps_is_told(tmp_path: Path, script: str, told: str) -> None:
    with pytest.raises(TrialError) as error:
        take_steps(options()["adamw8bit"], 1e-4, bench(tmp_path, script, seconds=3))
    assert told in str(error.value)


def test_an_interpreter_that_is_gone_is_told(tmp_path: Path) -> None:
    where = bench(tmp_path, "true")
    where.python.unlink()
    with pytest.raises(TrialError, match="can't be started"):
        take_steps(options()["adamw8bit"], 1e-4, where)


def test_what_works_is_tried_once(tmp_path: Path) -> None:
    trial = trial_on(bench(tmp_path, said()))
    assert trial(options()["adamw8bit"], 1e-4) == trial(options()["adamw8bit"], 1e-4)
    assert runs(tmp_path) == 1


def test_what_fails_is_tried_each_time(tmp_path: Path) -> None:
    trial = trial_on(bench(tmp_path, said(cosine=0.1)))
    for _ in range(2):
        with pytest.raises(TrialError, match="its updates are not those of AdamW32bit"):
            trial(options()["adamw8bit"], 1e-4)
    assert runs(tmp_path) == 2


def test_other_arguments_and_other_versions_are_tried_anew(tmp_path: Path) -> None:
    where, option = bench(tmp_path, said()), options()["adamw8bit"]
    assert where.checkout is not None
    newer = replace(where, checkout=replace(where.checkout, packages={"bitsandbytes": "0.51.0"}))
    other = replace(option, args={**option.args, "weight_decay": 0.5})
    for each, asked in ((where, option), (newer, option), (where, other)):
        trial_on(each)(asked, 1e-4)
    assert runs(tmp_path) == 3


def test_a_package_without_a_version_is_not_remembered(tmp_path: Path) -> None:
    trial = trial_on(bench(tmp_path, said(state_bytes_per_parameter=4.0, cosine=None, norm_ratio=None)))
    for _ in range(2):
        trial(options()["lion"], 1e-4)
    assert runs(tmp_path) == 2


# --------------------------------------------------------------------------------------------------------- real steps

HERE = Bench(given.CPU, None, seconds=120)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, option in options().items() if installed(option)])
def test_every_optimizer_that_is_installed_passes_with_the_state_that_is_known_of_it(name: str) -> None:
    """A matrix of half the size has twice the share of what is kept once a row or a column."""
    option = options()[name]
    assert option.known is not None
    steps = trial_on(HERE)(option, 1e-4)
    most = 0.03 * option.known.state_bytes_per_parameter + 4 * (1 / SHAPE[0] + 1 / SHAPE[1])
    assert abs(steps.state_bytes_per_parameter - option.known.state_bytes_per_parameter) <= most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "args", "told"),
    [
        ("adamw8bit", {"min_8bit_size": 1_000_000}, "its state is not in 8 bits"),
        ("adamw8bit", {"no_such_argument": 1}, "TypeError"),
        ("sgd", {"maximize": True}, "the loss does not fall"),
    ],
)
def test_real_steps_that_are_no_good_are_seen(name: str, args: dict[str, Any], told: str) -> None:
    option = options()[name]
    with pytest.raises(TrialError, match=told):
        trial_on(HERE)(replace(option, args={**option.args, **args}), 1e-4)


@pytest.mark.slow
def test_a_run_steps_down_from_a_package_that_is_really_missing() -> None:
    plan = validate(missing(), given.facts(), lambda _bench: trial_on(HERE))
    assert plan.settings.optimizer.target == "torch.optim.AdamW"
    (warning,) = (text for text in plan.warnings if "optimizer=" in text)
    assert "package no_such_package is not installed (pip install no-such-package)" in warning


def test_what_is_missing_from_the_trainers_interpreter_is_installed_there(tmp_path: Path) -> None:
    answer = json.dumps({"error": "ModuleNotFoundError: No module named 'bitsandbytes'"})
    where = bench(tmp_path, f"cat <<'END'\n{answer}\nEND")
    with pytest.raises(NotInstalled) as error:
        take_steps(options()["adamw8bit"], 1e-4, where)
    assert error.value.install == f"{where.python} -m pip install bitsandbytes"


@pytest.mark.slow
def test_updates_that_are_not_the_twins_are_seen() -> None:
    option = options()["adamw8bit"]
    assert option.known is not None
    other = replace(option, known=replace(option.known, twin="bitsandbytes.optim.Lion32bit"))
    with pytest.raises(TrialError, match="its updates are not those of Lion32bit"):
        trial_on(HERE)(other, 1e-4)
