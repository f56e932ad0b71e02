"""Where settings come from: told of what Hydra composed, and held against the files themselves."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.composition import complete
from pipeline.explanation import as_json, explained, table, typed_keys
from pipeline.records import Choice, Origin
from pipeline.settings import PROJECT
from pipeline.validate import validate
from tests import given

SDXL = ("model=sdxl", "model.path=/models/x.safetensors")
ANIMA = ("model=anima", "model.path=/models/x.safetensors")
CASES: list[tuple[tuple[str, ...], str, str, str]] = [
    (("optimizer.lr=5e-4",), "optimizer.lr", "command line", "command line: optimizer.lr=5e-4"),
    (("++optimizer.lr=5e-4",), "optimizer.lr", "command line", "command line: ++optimizer.lr=5e-4"),
    (("seed=1", "seed=2"), "seed", "command line", "command line: seed=2"),
    (
        ("+optimizer.args={eps: 1e-6}",),
        "optimizer.args.eps",
        "command line",
        "command line: +optimizer.args={eps: 1e-6}",
    ),
    (("profile=anime",), "profile.name", "command line", "command line: profile=anime"),
    ((), "profile.name", "default", "conf/config.yaml"),
    (("experiment=demo_finetune",), "mode.name", "experiment", "conf/experiment/demo_finetune.yaml"),
    (("experiment=demo_finetune", "mode=lora"), "mode.name", "command line", "command line: mode=lora"),
    (SDXL, "network.rank", "profile", "conf/profile/style.yaml, row sdxl, grade B"),
    (SDXL, "train.min_steps", "profile", "conf/profile/style.yaml, row all"),
    (ANIMA, "network.rank", "profile", "conf/profile/style.yaml, row lumina2 of its kin, grade A"),
    (ANIMA, "optimizer.lr", "model", "conf/model/anima.yaml, its own figures"),
    ((), "train.samples_floor", "model", "conf/model/demo.yaml, its own figures"),
    ((*SDXL, "network=locon"), "network.conv_alpha", "profile", "conf/profile/style.yaml, row sdxl, grade B"),
    (
        (*SDXL, "network=locon", "network.alpha=3"),
        "network.conv_alpha",
        "command line",
        "command line: network.alpha=3",
    ),
    ((*SDXL, "network=loha"), "network.algo", "group", "conf/network/loha.yaml"),
    (
        (*SDXL, "profile.figures.lora.sdxl.lr=3e-5"),
        "optimizer.lr",
        "command line",
        "command line: profile.figures.lora.sdxl.lr=3e-5",
    ),
    ((), "model.clip_skip", "model", "conf/model/demo.yaml"),
    ((), "model.path", "model", "conf/model/demo.yaml"),
    ((), "sample.guidance_scale", "model", "conf/model/demo.yaml"),
    ((), "train.max_grad_norm", "profile", "conf/profile/style.yaml, row all"),
    ((), "train.keep_checkpoints", "default", "conf/config.yaml"),
    ((), "backend.weights_name", "group", "conf/backend/native.yaml"),
    (("optimizer=prodigy",), "optimizer.args.slice_p", "group", "conf/optimizer/prodigy.yaml"),
]


@pytest.mark.parametrize(("typed", "key", "layer", "source"), CASES, ids=lambda value: str(value)[:60])
def test_a_setting_says_where_it_comes_from(typed: tuple[str, ...], key: str, layer: str, source: str) -> None:
    told = given.origins(*typed)[key]
    assert (told.layer, told.source) == (layer, source)


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_in_which_is_typed_does_not_matter(order: int) -> None:
    typed = ("optimizer.lr=5e-4", "experiment=demo_finetune", "profile=anime")[::order]
    told = given.origins(*typed)
    assert [told[key].layer for key in ("optimizer.lr", "profile.name")] == ["command line", "command line"]


def test_an_experiment_is_told_and_the_command_line_beats_it(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    experiment = "# @package _global_\ndefaults:\n  - override /profile: anime\ntrain:\n  min_steps: 7 # few\nseed: 3\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(experiment)
    told = given.origins("seed=4", "experiment=mine", folder=tmp_path)
    file = str(tmp_path / "experiment" / "mine.yaml")
    assert told["train.min_steps"] == Origin("train.min_steps", 7, "experiment", file, "few")
    assert told["profile.name"] == Origin("profile.name", "anime", "experiment", file, "")
    assert told["seed"].source == "command line: seed=4"
    assert {"train.min_steps", "profile.name", "seed"} <= typed_keys(told.values())


def test_a_profile_of_ones_own_is_told_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "profile").mkdir()
    made = yaml.safe_load((PROJECT / "conf" / "profile" / "style.yaml").read_text()) | {"name": "mine"}
    made["figures"]["lora"]["sdxl"]["lr"] = 3.0e-5
    (tmp_path / "profile" / "mine.yaml").write_text(yaml.safe_dump(made))
    told = given.origins(*SDXL, "profile=mine", folder=tmp_path)["optimizer.lr"]
    assert (told.value, told.source) == (3e-5, f"{tmp_path / 'profile' / 'mine.yaml'}, row sdxl, grade B")


def test_a_variable_of_the_environment_is_told_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_SCRIPTS_ROOT", "/a/checkout")
    monkeypatch.delenv("SD_SCRIPTS_PYTHON", raising=False)
    told = given.origins("backend=kohya")
    assert told["backend.root"] == Origin(
        "backend.root", "/a/checkout", "environment", "environment: SD_SCRIPTS_ROOT", "the checkout"
    )
    assert told["backend.python"].source == "conf/backend/kohya.yaml"


def test_what_the_header_decided_was_not_typed(tmp_path: Path) -> None:
    typed = [f"model.path={given.sd15_folder(tmp_path / 'model')}", "data.dir=/pictures"]
    told = given.origins(*complete(typed), typed=typed)
    assert (told["model.name"].layer, told["model.name"].source) == ("decided", "model.path")
    assert (told["data.name"].layer, told["data.name"].source) == ("decided", "data.dir")
    assert given.origins(*typed, "model=sd15", "data=folder")["model.name"].source == "command line: model=sd15"


def test_the_comment_beside_a_key_is_its_reason() -> None:
    told = given.origins(*ANIMA)
    assert told["optimizer.lr"].reason == "with alpha as large as the rank, as its kin has it"
    assert told["train.keep_tags"].reason == "how many at the front stay, and stay in place"
    assert told["train.keep_checkpoints"].reason == ""


@pytest.mark.parametrize(
    ("typed", "key", "reason"),
    [
        (("optimizer=lion",), "optimizer.lr", "as this optimizer means a learning rate: 0.0002 there"),
        (
            ("backend=kohya", "mode=finetune"),
            "train.heldout_every_steps",
            "measures no held-out loss in this mode: 200",
        ),
    ],
)
def test_a_value_that_was_adapted_tells_what_stands_there(typed: tuple[str, ...], key: str, reason: str) -> None:
    assert reason in given.origins(*SDXL, *typed)[key].reason


# --------------------------------------------------------------------------------- held against the files themselves

MODELS = ("demo", "sd15", "sdxl", "sdxl_vpred", "noobai_vpred", "flux_dev", "anima", "sd3")


@pytest.mark.parametrize(("model", "mode"), list(product(MODELS, ("lora", "finetune"))))
def test_every_source_holds_the_value(model: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that is named has the key, or the row has the figure, and the value is the one that is used."""
    monkeypatch.delenv("LORA_EASY_CACHE")  # a variable is no file
    path = () if model == "demo" else ("model.path=/models/x.safetensors",)
    typed = ("profile=character", f"model={model}", *path, f"mode={mode}")
    told = given.origins(*typed)
    figures = FIGURES | (figures_of("model/sd15.yaml") if model == "sd15" else {})
    rows = 0
    for origin in told.values():
        file, _, row = origin.source.partition(", ")
        if row:
            figure = figures[origin.key]
            assert row_of(file, row, mode)[figure] == origin.value, origin
            rows += 1
        elif origin.layer not in ("command line", "decided"):
            assert holds(PROJECT / file, origin), origin
    assert rows == len(figures) - (5 if mode == "finetune" else 0)
    assert {key: origin.value for key, origin in told.items()} == given.settings(*typed).flat()


def figures_of(*files: str) -> dict[str, str]:
    """Setting -> figure, as the files say."""
    found: dict[str, str] = {}
    for file in files:
        made = yaml.safe_load((PROJECT / "conf" / file).read_text())
        group = "" if file.startswith(("config", "mode/")) else f"{file.partition('/')[0]}."
        for key, value in flattened("", made):
            names = re.findall(r"\$\{figure:(\w+)\}", str(value))
            found |= {f"{group}{key}": name for name in names}
    return found


def flattened(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for key, each in value.items() for pair in flattened(f"{prefix}{key}.", each)]
    return [(prefix[:-1], value)]


FIGURES = figures_of(
    "config.yaml", "mode/lora.yaml", "network/auto.yaml", "optimizer/adamw.yaml", "optimizer/auto.yaml"
)


def row_of(file: str, row: str, mode: str) -> dict[str, Any]:
    figures = yaml.safe_load((PROJECT / file).read_text())["figures"][mode]
    assert isinstance(figures, dict)
    if row == "its own figures":
        return figures
    found: dict[str, Any] = figures[row.partition(",")[0].removeprefix("row ").removesuffix(" of its kin")]
    return found


def holds(file: Path, origin: Origin) -> bool:
    """The value, or its key with what it is taken from, or the choice of an option."""
    made = yaml.safe_load(file.read_text().replace("${project:}", str(PROJECT)))
    leaves = flattened("", made)
    name = origin.key.rpartition(".")[2]
    options = [entry for entry in made.get("defaults", []) if isinstance(entry, dict)]
    chosen = [option for entry in options for option in entry.values()]
    taken = {key.rpartition(".")[2] for key, value in leaves if "${" in str(value)}
    return origin.value in [value for _, value in leaves] or name in taken or origin.value in chosen


# -------------------------------------------------------------------------------------------------- with the choices


def origins_of_the_plan(*typed: str) -> dict[str, Origin]:
    plan = validate(given.settings(*typed), given.facts())
    told = explained(tuple(given.origins(*typed).values()), plan.settings, plan.choices)
    return {origin.key: origin for origin in told}


def test_what_was_decided_has_the_reason_of_its_choice() -> None:
    told = origins_of_the_plan()
    assert (told["train.max_steps"].value, told["train.max_steps"].source) == (150, "decided")
    assert told["train.max_steps"].reason.startswith("24 pictures x 1 repeat x 50 epochs / batch 8 = 150 steps")
    assert (told["hardware.name"].value, told["hardware.precision"].value) == ("cpu", "fp32")
    assert told["train.batch_size"].reason == "1 pass makes an update of 8 pictures"
    assert told["train.gradient_checkpointing"].reason == "follows from memory=high_performance"
    assert told["disk"].layer == "decided"


def test_what_was_typed_stays_typed() -> None:
    told = origins_of_the_plan("train.max_steps=7", "hardware.precision=fp32", "train.batch_size=2")
    typed = {key: told[key].source for key in ("train.max_steps", "hardware.precision", "train.batch_size")}
    assert typed == {key: f"command line: {key}={told[key].value}" for key in typed}


def test_the_table_has_the_values_of_the_plan() -> None:
    plan = validate(given.settings(), given.facts())
    told = origins_of_the_plan()
    values = plan.settings.flat()
    chosen = {choice.key for choice in plan.choices} | {f"{choice.key}.name" for choice in plan.choices}
    assert {key: told[key].value for key in values if key not in chosen} == {
        key: value for key, value in values.items() if key not in chosen
    }


def test_what_took_the_place_of_something_typed_says_so() -> None:
    settings = given.settings("optimizer=lion8bit")
    used = replace(settings, optimizer=replace(settings.optimizer, name="lion", lr=1.0))
    choice = Choice("optimizer", "lion", "in place of lion8bit")
    told = {o.key: o for o in explained(tuple(given.origins("optimizer=lion8bit").values()), used, (choice,))}
    assert told["optimizer.name"].reason == "in place of lion8bit (asked: lion8bit, command line: optimizer=lion8bit)"
    assert told["optimizer.lr"].reason.startswith("follows from optimizer=lion (asked: ")


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = (
        "backend=kohya",
        "++backend.args.api_key=abcdefgh",
        "tracking=server",
        "tracking.uri=http://me:hidden7@host",
    )
    kept = as_json(list(explained(tuple(given.origins(*typed).values()), given.settings(*typed), ())))
    assert "abcdefgh" not in kept
    assert "hidden7" not in kept
    assert json.loads(kept)


# ----------------------------------------------------------------------------------------------------------- to read


def test_the_table_keeps_within_its_width_and_loses_nothing() -> None:
    origins = tuple(origins_of_the_plan(*("sample.prompts=[a]", "optimizer.lr=5e-4")).values())
    lines = table(origins, 100)
    assert max(map(len, lines)) <= 100
    words = " ".join(" ".join(lines).split())
    assert "command line:" in words
    assert "optimizer.lr=5e-4" in words
    assert "conf/model/demo.yaml, its own" in words


def test_sections_stand_together_and_empty_settings_are_counted() -> None:
    origins = tuple(origins_of_the_plan().values())
    lines = table(origins, 100)
    heads = [line.split()[0] for line in lines if line.endswith("why") and not line.startswith(" ")]
    assert len(heads) == len(set(heads))
    assert "besides" in heads
    assert "tracking" in heads  # which of its options, and no more
    assert not any(line.startswith(("  epochs ", "  main_port ", "  known")) for line in lines)
    assert re.search(r"\d+ settings are left out: empty", " ".join(lines))


def test_json_has_a_line_for_every_setting() -> None:
    origins = list(origins_of_the_plan().values())
    rows = json.loads(as_json(origins))
    assert [row["key"] for row in rows] == [origin.key for origin in origins]
    assert set(rows[0]) == {"key", "value", "source", "reason"}
