from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from pipeline.checks.limits import LIMITS, out_of_range
from pipeline.checks.networks import network_problems
from pipeline.errors import InvalidSettings, Problem
from pipeline.figures import found, rows_of
from pipeline.records import Platform
from pipeline.settings import PROJECT, RateMeaning, Settings, from_config, register
from pipeline.validate import validate
from tests import given, golden_kohya

CONF = PROJECT / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
UNETS = ("sd15", "sd2", "sdxl", "pony", "illustrious", "noobai_vpred")
FLOWS = (
    *("sd35_medium", "sd35_large", "flux_dev", "flux_schnell", "chroma", "lumina2", "hunyuan_image21", "qwen_image"),
    *("z_image", "flux2_klein", "flux2_dev"),
)
"""The models that every profile has a row for."""


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


NEEDS = {
    "data=folder": ("data.dir=/pictures",),
    "optimizer=sgd": ("optimizer.lr=0.1",),
    **{f"model={name}": ("model.path=/models/x.safetensors",) for name in options("model") if name != "demo"},
}
"""What must be typed along with a choice that leaves a value to the user."""


def groups() -> list[str]:
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())


def choices() -> Iterator[tuple[str, str]]:
    """Every option of every group, in every mode that has it; but for those that `runs` goes through, and whole
    examples (tests/test_experiments.py)."""
    for group in sorted({*groups()} - {"model", "profile", "hardware", "experiment"}):
        modes = {"network": ["lora"], "mode": [""]}.get(group, options("mode"))
        yield from ((mode, f"{group}={option}") for mode, option in product(modes, options(group)))


def composed(*overrides: str) -> Any:
    return from_config(given.config(*overrides))


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")


def test_there_are_configs() -> None:
    assert {"model", "profile", "hardware", "mode", "network", "optimizer"} <= set(groups())
    assert len(FILES) > 30


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_every_file_opens_with_its_purpose_and_a_command(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if line != "# @package _global_"]
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    assert head, "the first line says what the file is for"
    assert re.match(r"# \w.{15,}", head[0])
    assert any(re.search(r"python run\.py", line) for line in head)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_the_command_of_every_file_uses_it(file: Path) -> None:
    if file.parent == CONF:
        return
    head = "\n".join(line for line in file.read_text().splitlines() if line.startswith("#"))
    assert f"{file.parent.name}={file.stem}" in head


@pytest.mark.parametrize(("mode", "choice"), list(choices()), ids=lambda value: value)
def test_every_option_composes_and_resolves(mode: str, choice: str) -> None:
    if choice == "launch=slurm":  # of an extra
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    overrides = [choice, *NEEDS.get(choice, ())]
    composed(*([f"mode={mode}"] if mode else []), *overrides)


COMBINATIONS = list(product(options("model"), options("profile"), options("mode")))
PLATFORMS: dict[str, Platform] = {"auto": "cuda", "cuda": "cuda", "rocm": "rocm", "xpu": "xpu", "cpu": "cpu"}
"""What is found where an option of the group hardware is taken."""
PLENTY = 10**14
"""Bytes: of memory and disk, so that no cell is refused for the size of a machine."""


@dataclass(frozen=True)
class Cell:
    """What validate says of one combination on one platform with one backend."""

    hardware: str
    backend: str
    refusals: tuple[Problem, ...]
    steps: int


FOLLOWING = ("profile", "mode", "network", "optimizer", "train", "backend")
"""Groups whose values follow from profile and backend; a test holds them against what Hydra composes."""


def combined(model: str, profile: str, mode: str) -> tuple[Settings, tuple[Cell, ...]]:
    """The settings with the native backend, and what becomes of them everywhere."""
    return every_profile(model, mode)[profile]


@cache
def every_profile(model: str, mode: str) -> dict[str, tuple[Settings, tuple[Cell, ...]]]:
    """Composed once, since that takes longest: other options are put in as Hydra would."""
    config = given.config(*typed(model, "style", mode))
    whole = with_parts(from_config(config))
    return {profile: everywhere(config, whole, model, profile, mode) for profile in options("profile")}


def everywhere(
    config: DictConfig, whole: Settings, model: str, profile: str, mode: str
) -> tuple[Settings, tuple[Cell, ...]]:
    made, cells = {}, []
    for backend in options("backend"):
        made[backend] = put_in(config, whole, model, profile, mode, backend)
        for name, hardware in option_nodes("hardware").items():
            settings = replace(made[backend], hardware=as_object(hardware))
            cells.append(cell(name, backend, settings))
    return made["native"], tuple(cells)


def put_in(config: DictConfig, whole: Settings, model: str, profile: str, mode: str, backend: str) -> Settings:
    """`whole` with another profile and backend."""
    config._set_flag("no_deepcopy_set_nodes", True)  # copies of whole profiles take a third of the time
    with open_dict(config):
        config.profile, config.backend = option_nodes("profile")[profile], option_nodes("backend")[backend]
        config.optimizer = optimizer_node(model, profile, mode, config)
    groups: dict[str, Any] = {name: as_object(config[name]) for name in FOLLOWING}
    return replace(whole, model=replace(whole.model, clip_skip=config.model.clip_skip), **groups)


def as_object(node: Any) -> Any:
    """mode=finetune has no network."""
    return None if node is None else OmegaConf.to_object(node)


def optimizer_node(model: str, profile: str, mode: str, config: DictConfig) -> Any:
    """optimizer=auto may be what a figure says: composed once for each."""
    figure = found("optimizer", rows_of(config.model, config.profile, mode))
    said = None if figure is None else figure.value
    if said not in OPTIMIZERS:
        OPTIMIZERS[said] = given.config(*typed(model, profile, mode)).optimizer
    return OPTIMIZERS[said]


OPTIMIZERS: dict[object, Any] = {}


def typed(model: str, profile: str, mode: str, *more: str) -> list[str]:
    path = [] if model == "demo" else [f"model.path={model_file()}"]
    return [f"model={model}", *path, f"profile={profile}", f"mode={mode}", "data=folder", "data.dir=pictures", *more]


def model_file() -> Path:
    file = golden_kohya.models() / "model.safetensors"
    file.touch()
    return file


def with_parts(settings: Settings) -> Settings:
    """Every part that does not lie in the model has a file, as a user would name it."""
    outside = {name: str(model_file()) for name, part in settings.model.known.parts.items() if not part.inside}
    either = {name for names in settings.model.known.alternatives for name in names[1:]}
    parts = {name: path for name, path in outside.items() if name not in either}
    return replace(settings, model=replace(settings.model, parts={**settings.model.parts, **parts}))


@cache
def option_nodes(group: str) -> dict[str, Any]:
    """The options of a group that stands under its own name, typed as in a whole configuration."""
    whole = {option: given.config(f"{group}={option}") for option in options(group)}
    return {option: config[group] for option, config in whole.items()}


def cell(hardware: str, backend: str, settings: Settings) -> Cell:
    machine = replace(given.CPU if hardware == "cpu" else given.CARD, platform=PLATFORMS[hardware], cpu_cores=8)
    facts = replace(golden_kohya.facts_of(settings), machine=replace(machine, memory_bytes=PLENTY))
    try:
        plan = validate(settings, replace(facts, disk_free_bytes=PLENTY))
    except InvalidSettings as error:
        return Cell(hardware, backend, error.problems, 0)
    return Cell(hardware, backend, (), plan.steps)


@pytest.mark.parametrize(("model", "profile", "mode"), COMBINATIONS, ids=lambda value: value)
def test_every_profile_has_all_figures_in_range(model: str, profile: str, mode: str) -> None:
    settings, _ = combined(model, profile, mode)
    assert list(out_of_range(settings)) == []
    assert settings.network is None or list(network_problems(settings.network)) == []
    if model in (*UNETS, *FLOWS):
        assert settings.model.kin == model, "what a row leaves to the row `all` would come from another model's row"
    assert list(unlike_the_model(settings)) == []


@pytest.mark.parametrize(("model", "profile", "mode"), COMBINATIONS, ids=lambda value: value)
def test_every_profile_runs_everywhere_or_is_refused_for_what_no_profile_can_change(
    model: str, profile: str, mode: str
) -> None:
    settings, cells = combined(model, profile, mode)
    assert len(cells) == len(options("hardware")) * len(options("backend"))
    for each in cells:
        reasons = [str(problem) for problem in each.refusals if str(problem.value) != IN_AN_EXTRA]
        if each.backend in can_train(settings):
            assert not reasons, each
            assert each.steps >= settings.train.min_steps
        else:
            assert len(reasons) == 1, each
            assert re.search(REFUSAL[each.backend], reasons[0]), reasons[0]


IN_AN_EXTRA = "prodigyopt.Prodigy"
"""The optimizer of one figure, which may not be installed."""
REFUSAL = {"native": "backend=native can't train", "kohya": "sd-scripts (does not train|has no script that finetunes)"}
"""Why a backend has no trainer for a model."""


def can_train(settings: Settings) -> set[str]:
    known = settings.model.known
    script = known.kohya.lora_script if settings.mode.name == "lora" else known.kohya.finetune_script
    return {name for name, trainer in (("native", known.native), ("kohya", script)) if trainer is not None}


def test_the_matrix_is_whole() -> None:
    """22 models, 5 profiles, 2 modes, 5 platforms, 2 backends: 950 of 2200 cells run, the others have no trainer."""
    every = [each for combination in COMBINATIONS for each in combined(*combination)[1]]
    assert len(every) == len(COMBINATIONS) * len(options("hardware")) * len(options("backend")) >= 2200
    assert sum(not each.refusals for each in every) >= 950
    for option, backend in product(options("hardware"), options("backend")):
        assert any(not each.refusals for each in every if (each.hardware, each.backend) == (option, backend))


SOME = [*COMBINATIONS[:: len(COMBINATIONS) // 6], ("pony", "character", "lora")]


@pytest.mark.parametrize("combination", SOME, ids=lambda value: "-".join(value))
def test_the_matrix_is_what_hydra_composes(combination: tuple[str, str, str]) -> None:
    model, profile, mode = combination
    config = given.config(*typed(model, "anime", mode))
    made = put_in(config, from_config(config), model, profile, mode, "kohya")
    made = replace(made, hardware=as_object(option_nodes("hardware")["rocm"]))
    assert made == composed(*typed(*combination, "backend=kohya", "hardware=rocm"))


def unlike_the_model(settings: Settings) -> Iterator[str]:
    """Figures that contradict what is known of the model."""
    known, rate, values = settings.model.known, settings.optimizer.lr, settings.flat()
    low, high = known.learning_rates.finetune_low, known.learning_rates.finetune_high
    if settings.network is not None:
        rate *= settings.network.alpha / settings.network.rank
        low, high = known.learning_rates.lora_low, known.learning_rates.lora_high
    is_rate = settings.optimizer.known.rate is RateMeaning.rate
    if is_rate and ((low is not None and rate < 0.999 * low) or (high is not None and rate > 1.001 * high)):
        yield f"learning rate {rate:g}, known are {low} to {high}"
    if not known.resolution.min_px <= settings.train.resolution_px <= known.resolution.max_px:
        yield f"resolution {settings.train.resolution_px}, known is {known.resolution}"
    yield from (f"{fixed.key} is not {fixed.value}" for fixed in known.fixed if values[fixed.key] != fixed.value)


@pytest.mark.parametrize("network", options("network"))
def test_every_network_is_one_that_its_algorithm_can_be(network: str) -> None:
    settings = composed(f"network={network}")
    assert list(network_problems(settings.network)) == []


# ------------------------------------------------------------------------------------------------------------ figures


@cache
def used_figures() -> set[str]:
    lines = [line.partition("#")[0] for file in FILES for line in file.read_text().splitlines()]
    return {name for line in lines for name in re.findall(r"\$\{figure:(\w+)\}", line)} | {"optimizer"}


@cache
def read(group: str, option: str) -> Any:
    return yaml.safe_load((CONF / group / f"{option}.yaml").read_text())


@cache
def figure_rows() -> dict[str, dict[str, Any]]:
    """Every row of figures, by where it stands."""
    rows: dict[str, dict[str, Any]] = {}
    for profile, mode in product(options("profile"), options("mode")):
        by_model = read("profile", profile)["figures"][mode]
        rows |= {f"{profile} {mode} {model}": row for model, row in by_model.items()}
    for model in options("model"):
        rows |= {f"{model} {mode}": row for mode, row in read("model", model).get("figures", {}).items()}
    return rows


def whole_rows(mode: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Profile, model and what the two come to."""
    for profile in options("profile"):
        rows = read("profile", profile)["figures"][mode]
        yield from ((profile, model, rows["all"] | rows[model]) for model in (*UNETS, *FLOWS))


def test_figures_are_used_and_given() -> None:
    assert used_figures()
    assert len(figure_rows()) >= 2 * len(options("profile"))


@pytest.mark.parametrize("row", figure_rows())
def test_every_figure_of_a_row_is_used_by_the_config(row: str) -> None:
    """A misspelt figure would be read by nobody."""
    assert set(figure_rows()[row]) - used_figures() == set()


@pytest.mark.parametrize("profile", options("profile"))
def test_a_profile_has_a_row_and_its_evidence_for_every_model(profile: str) -> None:
    made = read("profile", profile)
    assert list(made["figures"]) == list(made["known"]["evidence"]) == ["lora", "finetune"]
    assert all(list(rows) == ["all", *UNETS, *FLOWS] for rows in made["figures"].values())
    assert all(list(rows) == [*UNETS, *FLOWS] for rows in made["known"]["evidence"].values())


@pytest.mark.parametrize("mode", options("mode"))
def test_whole_rows_have_every_figure(mode: str) -> None:
    of_the_adapter = {"algo", "rank", "alpha", "conv_rank", "conv_alpha"}
    expected = used_figures() if mode == "lora" else used_figures() - of_the_adapter
    wrong = {(profile, model): set(row) ^ expected for profile, model, row in whole_rows(mode)}
    assert {where: names for where, names in wrong.items() if names} == {}


@pytest.mark.parametrize("mode", options("mode"))
def test_whole_rows_are_in_range(mode: str) -> None:
    limits = {key.rpartition(".")[2]: limit for key, limit in LIMITS.items()}
    for profile, model, row in whole_rows(mode):
        numbers = {name: value for name, value in row.items() if name in limits and value is not None}
        assert {name: value for name, value in numbers.items() if not limits[name].holds(value)} == {}, (profile, model)
        assert row["samples_floor"] <= row["samples_cap"], (profile, model)
        assert row["shuffle_tags"] or not row["keep_tags"], (profile, model)


def test_adapters_of_convolutions_are_locon() -> None:
    for profile, model, row in whole_rows("lora"):
        of_convolutions = (row["conv_rank"] > 0, row["conv_alpha"] > 0)
        assert of_convolutions == (row["algo"] == "locon",) * 2, (profile, model)


def test_restarts_are_of_the_scheduler_that_has_them() -> None:
    for profile, model, row in [*whole_rows("lora"), *whole_rows("finetune")]:
        assert (row["scheduler_cycles"] > 1) == (row["scheduler"] == "cosine_restarts"), (profile, model)


def test_no_row_repeats_what_all_says() -> None:
    rows = figure_rows()
    for place, row in rows.items():
        usual = rows.get(f"{place.rpartition(' ')[0]} all", {})
        repeated = [name for name, value in row.items() if name in usual and usual[name] == value]
        assert row is usual or not repeated, place


def test_numbers_are_numbers() -> None:
    """YAML reads 1e-4 as a text and 1.0e-4 as a number."""
    texts = {value for row in figure_rows().values() for value in row.values() if isinstance(value, str)}
    names = {"lora", "locon", "constant", "linear", "cosine", "cosine_restarts", "adamw8bit", "prodigy"}
    assert texts <= names | {"uniform", "logit_normal", "by_resolution"}


def test_adapters_learn_at_a_rate_that_people_report() -> None:
    rates = {(profile, model): row["lr"] * row["alpha"] / row["rank"] for profile, model, row in whole_rows("lora")}
    assert {where: rate for where, rate in rates.items() if not 1e-5 <= rate <= 5e-4} == {}


def test_finetunes_learn_at_a_rate_that_people_report() -> None:
    rates = {(profile, model): row["lr"] for profile, model, row in whole_rows("finetune")}
    assert {where: rate for where, rate in rates.items() if not 1e-7 <= rate <= 5e-5} == {}


@pytest.mark.parametrize("mode", options("mode"))
def test_flow_models_have_nothing_that_needs_a_noise_schedule(mode: str) -> None:
    for profile, model, row in whole_rows(mode):
        assert model in UNETS or (row["min_snr_gamma"], row["noise_offset"]) == (None, 0), (profile, model)


@pytest.mark.parametrize("mode", options("mode"))
def test_flow_models_say_how_their_timesteps_are_drawn_and_no_others_do(mode: str) -> None:
    for profile, model, row in whole_rows(mode):
        assert (row["timestep_sampling"] is not None) == (model in FLOWS), (profile, model)
        assert model in FLOWS or row["timestep_shift"] is None, (profile, model)


def test_figures_name_optimizers_that_take_weight_decay_and_two_betas() -> None:
    """conf/optimizer/auto.yaml passes both on."""
    named = {row["optimizer"] for mode in ("lora", "finetune") for _, _, row in whole_rows(mode)}
    args = {name: read("optimizer", name)["args"] for name in named}
    assert {name: (len(each["betas"]), "weight_decay" in each) for name, each in args.items()} == dict.fromkeys(
        named, (2, True)
    )


@pytest.mark.parametrize("mode", options("mode"))
def test_text_encoders_learn_slower_and_sentences_keep_their_order(mode: str) -> None:
    for profile, model, row in whole_rows(mode):
        assert row["text_encoder_lr"] <= row["lr"] / 2, (profile, model)
        assert model in UNETS or not (row["text_encoder_lr"] or row["shuffle_tags"]), (profile, model)


@pytest.mark.parametrize(
    ("figure", "value"), [("lr", 0.1), ("alpha", 2), ("rank", 3), ("batch_size", 4)], ids=["row", "own", "kin", "all"]
)
def test_a_figure_is_looked_up_in_order(figure: str, value: float) -> None:
    """The model's row, its own figures, the row of its kin, the row for all."""
    own = {"lr": 0.2, "alpha": 2}
    kin, usual = {"lr": 0.3, "alpha": 3, "rank": 3}, {"lr": 0.4, "alpha": 4, "rank": 4, "batch_size": 4}
    register()
    config = OmegaConf.create(
        {
            "model": {"name": "mine", "kin": "kin", "figures": {"lora": own}},
            "profile": {"name": "p", "figures": {"lora": {"mine": {"lr": 0.1}, "kin": kin, "all": usual}}},
            "mode": {"name": "lora"},
            "value": f"${{figure:{figure}}}",
        }
    )
    assert config.value == value


def test_a_figure_that_no_row_has_is_an_error_that_names_profile_and_model() -> None:
    config = given.config("++train.batch_size=${figure:no_such_figure}")
    with pytest.raises(Exception, match="profile 'style' has no figure 'no_such_figure' for model 'demo'"):
        OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("++backend.args.flip_aug=true", "backend.args.flip_aug"),
        ("++train.speed=1", "train.speed"),
        ("++mode.rank=8", "mode.rank"),
    ],
)
def test_what_is_forced_in_where_nobody_looks_is_told(typed: str, key: str) -> None:
    """Hydra takes it in silence."""
    with pytest.raises(InvalidSettings) as told:
        from_config(given.config(typed))
    assert [problem.key for problem in told.value.problems] == [key]
