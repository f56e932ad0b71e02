"""The profiles: every figure against the table of published ones, what they say of themselves, and the verb."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from docs.make import settings as documented_settings
from docs.make import table
from docs.profiles_page import grade_table, profile_tables
from pipeline.__main__ import main
from pipeline.composition import complete
from pipeline.errors import InvalidSettings
from pipeline.families import PromptForm
from pipeline.figures import optimizer_behind_auto
from pipeline.memory.profiles import under
from pipeline.profiles.catalog import CONF, MODES, SETTINGS, kin_choice, models, profiles, strength, whole_row
from pipeline.profiles.telling import figure_words, sweep_command
from pipeline.settings import PROJECT
from tests import given

CELLS: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(
    (PROJECT / "tests" / "profile_figures.yaml").read_text(encoding="utf-8")
)
PLACES = {
    **{"algo": "network.algo", "rank": "network.rank", "alpha": "network.alpha", "conv_rank": "network.conv_rank"},
    **{"conv_alpha": "network.conv_alpha", "lr": "optimizer.lr", "text_encoder_lr": "mode.text_encoder_lr"},
    **{
        "weight_decay": "optimizer.args.weight_decay",
        "betas": "optimizer.args.betas",
        "batch": "train.effective_batch_size",
    },
    **{"scheduler": "train.scheduler", "cycles": "train.scheduler_cycles", "floor": "train.samples_floor"},
    **{
        "samples_per_image": "train.samples_per_image",
        "cap": "train.samples_cap",
        "keep": "train.keep_tags",
        "tag_dropout": "train.tag_dropout",
    },
    **{"caption_dropout": "train.caption_dropout", "shuffle": "train.shuffle_tags", "min_snr": "train.min_snr_gamma"},
    **{"noise_offset": "train.noise_offset", "max_grad_norm": "train.max_grad_norm", "shift": "train.timestep_shift"},
}
"""Number of the table -> the setting that it must come to."""
SAMPLINGS = {
    "sigmoid": "logit_normal",
    "logit_normal": "logit_normal",
    "sigma": "uniform",
    "nextdit_shift": "by_resolution",
}
"""Ways of drawing timesteps -> what they are called here."""

MORE = (
    *("train.resolution_px", "train.warmup_steps", "train.warmup_fraction", "train.timestep_sampling"),
    *("model.clip_skip", "model.known.kohya.lora_script", "model.known.kohya.arguments"),
    *("model.known.noise.zero_terminal_snr", "model.known.text.attention_mask"),
)


@cache
def composed() -> dict[tuple[str, str], dict[str, Any]]:
    """Profile and model -> every setting that the table speaks of, and what is known of the model.

    Nothing but `profile` and the optimizer's class changes with the profile, so each of both is composed once.
    """
    found = {}
    by_profile = {name: given.config(f"profile={name}", "model=sd15", "model.path=x").profile for name in CELLS}
    for model in CELLS["style"]:
        config = given.config(f"model={model}", "model.path=x")
        config._set_flag("no_deepcopy_set_nodes", True)  # copies of a whole profile take a tenth of a second each
        for name, profile in by_profile.items():
            config.profile = profile
            keys = (*PLACES.values(), *MORE)
            found[name, model] = {key: plain(OmegaConf.select(config, key)) for key in keys}
    return found


def plain(value: Any) -> Any:
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return getattr(value, "value", value)


def cells() -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield from ((profile, model, cell) for profile, rows in CELLS.items() for model, cell in rows.items())


def test_the_table_has_every_profile_and_every_model() -> None:
    assert set(CELLS) == set(profiles())
    assert len(list(cells())) == 5 * 17


@pytest.mark.parametrize("number", PLACES)
def test_every_cell_resolves_to_the_published_number(number: str) -> None:
    wrong: dict[tuple[str, str], tuple[Any, Any]] = {}
    for profile, model, cell in cells():
        if number in cell and not (number == "lr" and cell["optimizer"] == "prodigy"):
            found = composed()[profile, model][PLACES[number]]
            wrong |= {} if found == cell[number] else {(profile, model): (found, cell[number])}
    assert wrong == {}


def test_every_cell_is_trained_at_a_size_of_its_recipes() -> None:
    for profile, model, cell in cells():
        assert composed()[profile, model]["train.resolution_px"] in cell["resolutions_px"], (profile, model)


def test_every_cell_warms_up_as_long_as_its_recipe_says() -> None:
    """A share of the steps; or so many, and then a tenth of them at most."""
    for profile, model, cell in cells():
        found, warmup = composed()[profile, model], cell["warmup"]
        said = (100, 0.1) if warmup == 100 else (None, warmup)
        assert (found["train.warmup_steps"], found["train.warmup_fraction"]) == said, (profile, model)


def test_every_cell_draws_timesteps_as_its_recipe_does() -> None:
    for profile, model, cell in cells():
        if "sampling" in cell:
            found = composed()[profile, model]["train.timestep_sampling"]
            assert found == SAMPLINGS[cell["sampling"]], (profile, model)


def test_what_a_recipe_says_of_the_model_is_known_of_the_model() -> None:
    for profile, model, cell in cells():
        found = composed()[profile, model]
        if "guidance" in cell and found["model.known.kohya.lora_script"] is not None:
            assert found["model.known.kohya.arguments"]["guidance_scale"] == cell["guidance"], (profile, model)
        assert found["model.known.noise.zero_terminal_snr"] or "zero_terminal_snr" not in cell, (profile, model)
        assert found["model.known.text.attention_mask"] or "t5_mask" not in cell, (profile, model)
        assert found["model.clip_skip"] == cell.get("clip_skip", 1) - 1, (profile, model)


def test_every_cell_has_the_optimizer_and_the_grade_of_its_recipe() -> None:
    made, known = profiles(), models()
    for profile, model, cell in cells():
        row, evidence = whole_row(made[profile], known[model], "lora"), made[profile].evidence(known[model], "lora")
        assert row["optimizer"].value == cell["optimizer"], (profile, model)
        assert evidence is not None and evidence.grade.value == cell["grade"], (profile, model)
        bits_32 = {"adamw8bit": "adamw", "prodigy": "prodigy"}[cell["optimizer"]]
        assert optimizer_behind_auto([CONF], model, profile, "lora") == bits_32


# ---------------------------------------------------------------------------------------------------------- optimizer


def test_optimizer_auto_is_the_profiles() -> None:
    """Prodigy multiplies a rate that it finds: 1, and not the rate of the row, which is AdamW's."""
    settings = given.settings("model=pony", "model.path=x", "profile=character")
    assert (settings.optimizer.target, settings.optimizer.lr) == (
        "prodigyopt.Prodigy",
        CELLS["character"]["pony"]["lr"],
    )
    assert settings.optimizer.args["weight_decay"] == 0.5
    other = given.settings("model=pony", "model.path=x", "profile=style")
    assert (other.optimizer.target, other.optimizer.lr) == ("torch.optim.AdamW", 2e-4)


@pytest.mark.parametrize("memory", ["low_memory", "high_performance"])
def test_the_memory_profile_leaves_an_optimizer_that_has_no_8_bits(memory: str) -> None:
    settings = given.settings("model=pony", "model.path=x", "profile=character")
    assert under(settings, memory, 0).optimizer.name == "prodigy"


def test_what_is_typed_beats_the_profiles_optimizer() -> None:
    asked = ("model=pony", "model.path=x", "profile=character")
    named = given.settings(*asked, "optimizer=adamw").optimizer
    assert (named.name, named.lr, "slice_p" in named.args) == ("adamw", 1e-4, False)
    assert given.settings(*asked, "optimizer.args.weight_decay=0.2").optimizer.args["weight_decay"] == 0.2
    assert given.settings(*asked, "optimizer.lr=0.5").optimizer.lr == 0.5


def test_a_finetune_takes_the_finetunes_optimizer_and_rate() -> None:
    settings = given.settings("model=pony", "model.path=x", "profile=character", "mode=finetune")
    assert (settings.optimizer.target, settings.optimizer.lr) == ("torch.optim.AdamW", 3e-6)


def test_no_figure_of_a_finetune_is_an_adapters() -> None:
    for profile, model in product(profiles().values(), models().values()):
        row = whole_row(profile, model, "finetune")
        assert "rank" not in row
        assert row["lr"].value < whole_row(profile, model, "lora")["lr"].value


# --------------------------------------------------------------------------------------------------------- strength


@pytest.mark.parametrize("typed", ["1e-4", "1.0e-4", "0.0001"])
def test_a_rate_that_is_typed_is_a_number(typed: str) -> None:
    assert given.settings(f"optimizer.lr={typed}").optimizer.lr == 1e-4


def test_alpha_follows_the_rank_so_that_the_rate_keeps_its_meaning() -> None:
    rows = [given.settings("model=sd15", "model.path=x", f"network.rank={rank}") for rank in (8, 16, 32)]
    networks = [row.network for row in rows if row.network is not None]
    assert [network.alpha for network in networks] == [4, 8, 16]
    assert len({row.optimizer.lr * net.alpha / net.rank for row, net in zip(rows, networks, strict=True)}) == 1


def test_an_alpha_that_is_typed_stays() -> None:
    network = given.settings("network.rank=32", "network.alpha=3").network
    assert network is not None and network.alpha == 3


@pytest.mark.parametrize(
    ("warmup_steps", "fraction", "expected"),
    [(None, 0.05, 50), (100, 0.1, 100), (100, 0.05, 50), (20, 0.1, 20), (100, 0, 0)],
)
def test_a_warm_up_is_never_longer_than_its_share(warmup_steps: int | None, fraction: float, expected: int) -> None:
    train = given.settings(train__warmup_steps=warmup_steps, train__warmup_fraction=fraction).train
    assert train.warmup_of(1000) == expected


# ----------------------------------------------------------------------------------------------- what profiles say


def told_sources() -> set[str]:
    """Keys of the list in docs/profiles.md."""
    page = (PROJECT / "docs" / "profiles.md").read_text(encoding="utf-8").partition("## Sources\n")[2]
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    return {key for row in rows[1:] for key in row.split("|")[1].strip().split(", ")}


def used_sources() -> set[str]:
    known = [profile.known for profile in profiles().values()]
    rows = [row for each in known for by_model in each.evidence.values() for row in by_model.values()]
    return {key for row in rows for key in row.sources} | {
        key for each in known for p in each.pictures for key in p.sources
    }


def test_every_source_is_told_on_the_page() -> None:
    assert used_sources() - told_sources() == set()


def test_every_row_of_figures_names_a_source() -> None:
    for profile, mode in product(profiles().values(), MODES):
        assert [model for model, row in profile.known.evidence[mode].items() if not row.sources] == []


def test_every_profile_has_prompts_in_every_form() -> None:
    assert {name for name, each in profiles().items() if set(each.known.prompts) == set(PromptForm)} == set(CELLS)


def test_prompts_have_the_trigger_where_it_belongs() -> None:
    for name in ("character", "style", "concept", "anime"):
        for four in profiles()[name].known.prompts.values():
            assert ("TRIGGER" in four.trained_like, "TRIGGER" in four.new_context) == (True, True)
            assert "TRIGGER" not in four.class_only + four.unrelated


def test_figures_are_named_by_the_settings_that_take_them() -> None:
    keys = {key for key, _, _ in documented_settings()} | {"optimizer"}
    names = {
        name
        for profile in profiles().values()
        for rows in profile.figures.values()
        for row in rows.values()
        for name in row
    }
    assert names
    for name in names:
        setting = SETTINGS.get(name, f"train.{name}")
        assert setting in keys or setting.startswith("optimizer.args."), name


@pytest.mark.parametrize(("profile", "model"), list(product(sorted(CELLS), ("sd15", "flux_dev", "pony"))))
def test_every_run_of_the_grid_composes(profile: str, model: str) -> None:
    words = sweep_command(profiles()[profile], models()[model]).split()[3:]
    first = [word.split(",")[0] for word in words if not word.startswith("data.dir")]
    last = [word.partition("=")[0] + "=" + word.rpartition("=")[2].split(",")[-1] for word in words]
    for overrides in (first, [word for word in last if not word.startswith("data.dir")]):
        assert given.settings(*overrides).profile.name == profile


def test_a_model_without_a_row_says_whose_it_takes() -> None:
    choice = kin_choice(given.settings("model=anima", "model.path=x"))
    assert choice is not None
    assert choice.reason.startswith("figures taken from lumina2, but for its own lr, timestep_sampling")
    assert kin_choice(given.settings("model=sdxl", "model.path=x")) is None


@pytest.mark.parametrize(
    "fact", ["profile.known.use", "profile.figures.lora.all.lr", "model.known.title", "model.figures"]
)
def test_facts_can_not_be_typed(fact: str) -> None:
    with pytest.raises(InvalidSettings, match="holds what is known; it is no setting"):
        complete([f"{fact}=1"])


# --------------------------------------------------------------------------------------------------------- a new one


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of a user's own, with one profile in it."""
    written = (CONF / "profile" / "style.yaml").read_text(encoding="utf-8")
    changed = written.replace("name: style", "name: mine", 1).replace("optimizer: adamw8bit", "optimizer: prodigy", 1)
    assert changed != written
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "mine.yaml").write_text(changed, encoding="utf-8")
    return tmp_path


def test_one_file_is_a_new_profile_that_is_composed(mine: Path) -> None:
    command = [sys.executable, "run.py", "--config-dir", str(mine), "profile=mine", "model=sd15", "model.path=x"]
    told = subprocess.run([*command, "--cfg", "job"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    settings = yaml.safe_load(told)
    assert (settings["profile"]["name"], settings["network"]["algo"]) == ("mine", "locon")
    assert settings["optimizer"]["target"] == "prodigyopt.Prodigy", "optimizer=auto finds the profile where Hydra does"


def test_one_file_is_a_new_profile_that_is_listed(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "--config-dir", str(mine), "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)["profiles"]] == sorted([*CELLS, "mine"])


def test_one_file_is_a_new_profile_that_is_documented(mine: Path) -> None:
    folders = (mine, CONF)
    assert "### mine\n" in profile_tables(table, folders)
    assert "| mine |" in grade_table(table, folders).splitlines()[0]


def test_a_file_that_is_no_profile_is_told(tmp_path: Path) -> None:
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "half.yaml").write_text("name: half\n", encoding="utf-8")
    with pytest.raises(InvalidSettings, match=r"conf/profile/half.yaml is no profile: KeyError 'purpose'"):
        profiles((tmp_path, CONF))


# --------------------------------------------------------------------------------------------------------- the verb


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["profiles", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [(), ("style",), ("character", "--model", "pony"), ("anime", "--model", "anima")])
def test_the_verb_is_read_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = told(capsys, *arguments).splitlines()
    assert len(lines) > 10
    assert [line for line in lines if len(line) > 80 and not line.startswith("python ")] == []


def test_the_verb_shows_each_profile_with_its_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(told(capsys).split())
    assert all(name in text for name in CELLS)
    assert "100 to 1000" in text


def test_the_verb_tells_a_profile_for_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "style", "--model", "sdxl")
    assert "x alpha / rank" in text
    assert "optimizer.lr=1e-4,2e-4,4e-4 network.rank=8,16,32" in text
    assert "B (HS2, KS2, KS4, CV)" in text
    assert "an old sailor on a pier" in text


def test_the_verb_says_whose_figures_stand_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert "mode=lora, figures taken from noobai_vpred" in told(capsys, "style", "--model", "sdxl_vpred")


def test_prompts_stand_among_the_words_that_the_model_wants(capsys: pytest.CaptureFixture[str]) -> None:
    assert "score_9, score_8_up, score_7_up, rating_safe, TRIGGER" in told(capsys, "style", "--model", "pony")


def test_json_has_each_figure_with_the_row_that_it_is_from(capsys: pytest.CaptureFixture[str]) -> None:
    (style,) = json.loads(told(capsys, "style", "--model", "sdxl", "--json"))["profiles"]
    lora = style["models"]["sdxl"]["lora"]
    assert lora["figures"]["optimizer.lr"] == {"value": 2e-4, "from": "sdxl"}
    assert lora["figures"]["train.min_steps"] == {"value": 400, "from": "all"}
    assert math.isclose(lora["lr_x_alpha_over_rank"], 1e-4)


def test_json_says_what_each_profile_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    for each in json.loads(told(capsys, "--json"))["profiles"]:
        assert each["use"] and each["not_for"] and each["pictures"]


@pytest.mark.parametrize(("arguments", "near"), [(("stile",), "style"), (("style", "--model", "sdx"), "sdxl")])
def test_a_misspelt_name_is_told(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], near: str) -> None:
    assert main(["profiles", *arguments]) == 1
    assert f"Did you mean {near}?" in capsys.readouterr().err


def test_the_verb_loads_no_trainer() -> None:
    code = "import sys; from pipeline.__main__ import main; main(['profiles', 'style']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "pipeline.profiles.telling" in loaded
    assert loaded.isdisjoint({"torch", "mlflow", "diffusers", "hydra"})


def test_a_strength_is_of_adapters_only() -> None:
    style, sdxl = profiles()["style"], models()["sdxl"]
    assert strength(whole_row(style, sdxl, "finetune")) is None
    assert math.isclose(strength(whole_row(style, sdxl, "lora")) or 0, 1e-4)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.0e-4, "1e-4"),
        (2.5e-4, "2.5e-4"),
        (0.05, "0.05"),
        (None, "null"),
        (True, "true"),
        ([0.9, 0.99], "[0.9, 0.99]"),
    ],
)
def test_figures_are_told_as_one_would_type_them(value: object, words: str) -> None:
    assert figure_words(value) == words
