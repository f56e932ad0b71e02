"""A run is repeated with the settings that it had: composed for real, from runs that were rendered or trained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.errors import RunError
from pipeline.overrides import typed_as
from pipeline.repeat import Repetition, repetition_of
from pipeline.runs.reading import flat_config
from pipeline.runs.repeating import pinned_at_all, recorded
from pipeline.settings import PROJECT, from_config
from tests.conftest import compose_settings
from tests.given import picture, sd15_folder
from tests.test_run import run_py

Render = Callable[..., Path]


def profile(folder: Path, **figures: object) -> Path:
    """A profile of the user's: style with other figures for the demo model. Returns the folder of --config-dir."""
    written = yaml.safe_load((PROJECT / "conf" / "profile" / "style.yaml").read_text(encoding="utf-8"))
    written["name"] = "mine"
    written["figures"]["lora"]["demo"] = figures
    path = folder / "conf" / "profile" / "mine.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    return folder / "conf"


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, pictures, a profile of the user's, and a run of it that was rendered."""
    folder = tmp_path_factory.mktemp("once")
    sd15_folder(folder / "model")
    for number in range(4):
        picture(folder / "pictures" / f"{number}.png", seed=number, size=(64, 64))
    own = profile(folder, lr=5e-4, rank=8, alpha=4.0, warmup_fraction=0.3)
    words = ["model=demo", "model.path=model", "data.dir=pictures", "profile=mine", "sample.every_steps=7"]
    done = run_py("-cd", str(own), *words, "tracking=off", "until=render", "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(once: Path, tmp_path: Path) -> Path:
    """A copy to change; the run was started in it."""
    shutil.copytree(once, tmp_path / "folder")
    hydra = tmp_path / "folder" / "run" / ".hydra" / "hydra.yaml"
    hydra.write_text(hydra.read_text().replace(str(once), str(tmp_path / "folder")))
    return tmp_path / "folder"


def repetition(folder: Path, *typed: str) -> Repetition:
    return repetition_of(recorded(folder / "run"), typed)


def pins(made: Repetition) -> dict[str, object]:
    return {pin.key: pin.value for pin in made.pins}


def composed(made: Repetition) -> dict[str, object]:
    """The settings that run.py has of it, by Hydra itself."""
    from hydra import compose, initialize_config_dir

    flags = made.argv[:2] if made.argv[0] == "-cd" else ()
    searched = [f"hydra.searchpath=['file://{flags[1]}']"] if flags else []
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return from_config(compose("config", [*searched, *made.argv[len(flags) :]])).flat()


def of_then(folder: Path) -> dict[str, object]:
    """What the run's config.yaml has, but for what is not pinned: it goes all the way now."""
    return {**flat_config(folder / "run"), "resume": "never"}


def warmup(folder: Path) -> dict[str, object]:
    """The number that the warm-up came to, a tenth of the run."""
    plan = json.loads((folder / "run" / "plan.json").read_text())
    assert plan["warmup_steps"] == round(plan["steps"] / 10)
    return {"train.warmup_steps": plan["warmup_steps"]}


DECIDED = {"train.batch_size", "train.accumulation_steps", "train.gradient_checkpointing", "memory", "optimizer"}


# -------------------------------------------------------------------------------------------------- the same settings


def test_what_was_typed_is_typed_again_and_what_was_decided_is_pinned(folder: Path) -> None:
    made = repetition(folder)
    assert made.argv[:2] == ("-cd", str(folder / "conf"))
    assert "sample.every_steps=7" in made.argv
    assert made.argv[-1] == "resume=never"
    assert set(pins(made)) == {*DECIDED, "memory.blocks_to_swap"}
    assert all(pin.decided for pin in made.pins)
    assert composed(made) == of_then(folder)


def test_a_profile_that_changed_since_is_pinned_to_what_it_was(folder: Path) -> None:
    """The alpha too: it is the same in both, and would follow the rank that is pinned."""
    profile(folder, lr=1e-4, rank=32, alpha=4.0, warmup_fraction=0.3)
    made = repetition(folder)
    changed = {key: value for key, value in pins(made).items() if key.startswith(("optimizer.lr", "network."))}
    assert changed == {"optimizer.lr": 5e-4, "network.rank": 8, "network.alpha": 4.0}
    assert composed(made) == of_then(folder)


def test_a_profile_that_is_gone_is_not_needed(folder: Path) -> None:
    shutil.rmtree(folder / "conf")
    made = repetition(folder)
    assert "profile=mine" not in made.argv
    assert pins(made)["profile.name"] == "mine"
    assert composed(made) == of_then(folder) | warmup(folder)


def test_an_argument_that_a_default_has_now_is_taken_away(folder: Path) -> None:
    path = folder / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["optimizer"]["args"]["fused"]
    config["optimizer"]["args"]["eps"] = 1e-7
    path.write_text(yaml.safe_dump(config))
    made = repetition(folder)
    assert {"~optimizer.args.fused", "++optimizer.args.eps=1e-07"} <= set(made.argv)
    assert composed(made) == of_then(folder)


def test_a_warm_up_is_as_long_as_it_was(folder: Path) -> None:
    """Of a default a tenth of the run at most; of one that is typed all: a pin must not make it longer."""
    profile(folder, lr=5e-4, rank=8, alpha=4.0, warmup_fraction=0.05)
    assert warmup(folder).items() <= pins(repetition(folder)).items()


def test_a_setting_that_is_none_any_more_is_told(folder: Path) -> None:
    path = folder / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["train"]["old"] = 3
    del config["train"]["tag_dropout"]
    path.write_text(yaml.safe_dump(config))
    told = {str(each) for each in repetition(folder).differences}
    assert "train.old: 3 then, no such setting now" in told
    assert "train.tag_dropout: no such setting then, 0.0 now" in told


def test_a_run_without_hydras_folder_is_repeated_by_its_configuration(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder / "run" / ".hydra")
    monkeypatch.chdir(folder)
    made = repetition(folder)
    assert made.cwd == folder
    assert pinned_at_all(composed(made)) == pinned_at_all(of_then(folder)) | warmup(folder)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "a",
            "it's",
            'say "hi"',
            "null",
            "true",
            "1",
            "1e-4",
            "",
            " a ",
            "a,b",
            "{a}",
            "[a]",
            "a=b",
            "a#b",
            "${seed}",
        ),
        *("back\\slash", "ends\\", "\\'", "/a b/c (v2)", "ü", "a:b", "~a", "$x", "inf"),
    ],
)
def test_every_text_is_read_back_as_it_was_typed(value: str) -> None:
    made = compose_settings(f"sample.negative_prompt={typed_as(value)}", f"sample.prompts={typed_as([value, value])}")
    assert (made.sample.negative_prompt, made.sample.prompts) == (value, [value, value])


@pytest.mark.parametrize("value", [0.0, 1e-05, 5e-4, 123456.789, 1 / 3])
def test_every_number_is_read_back_as_it_was_typed(value: float) -> None:
    assert compose_settings(f"optimizer.lr={typed_as(value)}").optimizer.lr == value


# ----------------------------------------------------------------------------------------------- what is typed besides


def test_what_is_typed_wins_and_the_rest_stays(folder: Path) -> None:
    made = repetition(folder, "seed=5")
    assert made.argv[-1] == "seed=5"
    assert [str(each) for each in made.changed] == ["seed: 0 then, 5 now"]
    assert set(pins(made)) >= DECIDED


def test_what_follows_from_what_is_typed_is_decided_anew(folder: Path) -> None:
    made = repetition(folder, "train.effective_batch_size=2")
    assert not DECIDED & set(pins(made))


def test_another_option_of_a_group_brings_its_own_settings(folder: Path) -> None:
    profile(folder, lr=1e-4, rank=8, alpha=4.0, warmup_fraction=0.3)
    assert "optimizer.lr" in pins(repetition(folder))
    assert not pins(repetition(folder, "profile=style"))
    assert not {key for key in pins(repetition(folder, "optimizer=lion")) if key.startswith("optimizer")}


def test_a_mistake_in_addition_is_told_as_of_run_py(folder: Path) -> None:
    with pytest.raises(RunError, match="Did you mean seed"):
        repetition(folder, "sede=1")


# ------------------------------------------------------------------------------------------------ what else is other


def told(folder: Path) -> dict[str, tuple[str, str]]:
    return {each.what: (each.then, each.now) for each in repetition(folder).differences if "commit" not in each.what}


def test_nothing_is_told_where_nothing_is_other(folder: Path) -> None:
    assert told(folder) == {}


def test_other_pictures_are_told(folder: Path) -> None:
    picture(folder / "pictures" / "9.png", seed=9, size=(64, 64))
    (folder / "pictures" / "0.png").unlink()
    (folder / "pictures" / "1.txt").write_text("another caption")
    assert told(folder) == {"pictures": ("4", "1 new, 1 gone, 1 with other captions")}


def test_another_model_of_the_same_name_is_told(folder: Path) -> None:
    shutil.rmtree(folder / "model")
    sd15_folder(folder / "model", fill=b"\1")
    assert set(told(folder)) == {"the model's digest"}


def test_another_machine_and_other_versions_are_told(folder: Path) -> None:
    path = folder / "run" / "plan.json"
    plan = json.loads(path.read_text())
    now = plan["made_with"]["packages"]["diffusers"]
    plan["made_with"]["packages"] |= {"diffusers": "0.1", "lion-pytorch": "0.2"}
    plan["machine"]["cpu_cores"] += 6
    path.write_text(json.dumps(plan))
    found = told(folder)
    assert found["diffusers"] == ("0.1", now)
    assert found["lion-pytorch"] == ("0.2", "none")
    assert int(found["cores (threads)"][0]) == int(found["cores (threads)"][1]) + 6


def test_versions_that_were_not_recorded_are_told(folder: Path) -> None:
    path = folder / "run" / "plan.json"
    plan = json.loads(path.read_text())
    del plan["made_with"]
    path.write_text(json.dumps(plan))
    assert ("versions and commit", "not recorded") in {
        (each.what, each.then) for each in repetition(folder).differences
    }


# ------------------------------------------------------------------------------------------------------- the command


def verb(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "runs", "repeat", *words]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)


def test_a_dry_run_tells_and_starts_nothing(folder: Path) -> None:
    before = set(folder.iterdir())
    done = verb(str(folder / "run"), "--dry-run", "seed=3", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"cd {folder} && python {PROJECT / 'run.py'} -cd ")
    assert "seed: 0 then, 3 now" in done.stdout
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["printed", "json"])
def test_credentials_are_not_told(form: list[str], folder: Path) -> None:
    """Typed then, as an address or by a name, and among the settings that are pinned."""
    hydra, config = folder / "run" / ".hydra" / "hydra.yaml", folder / "run" / "config.yaml"
    told = yaml.safe_load(hydra.read_text())
    told["hydra"]["overrides"]["task"] += ["tracking.store_dir=x://me:horse-1@h/d", "++optimizer.args.api_key=horse-2"]
    hydra.write_text(yaml.safe_dump(told))
    settings = yaml.safe_load(config.read_text())
    settings["sample"]["prompts"] = ["see http://me:horse-3@host"]
    config.write_text(yaml.safe_dump(settings))
    done = verb(str(folder / "run"), "--dry-run", *form, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "horse" not in done.stdout
    assert done.stdout.count("***") >= 3


def test_the_trial_of_a_sweep_is_repeated_as_a_single_run(once: Path, tmp_path: Path) -> None:
    words = ["model=demo", f"model.path={once / 'model'}", f"data.dir={once / 'pictures'}", "tracking=off"]
    done = run_py("-m", *words, "until=render", "seed=4,5", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = verb(str(tmp_path / "sweep" / "1"), "hydra.run.dir=again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())["seed"] == 5
    assert not (tmp_path / "multirun").exists()


@pytest.mark.slow
def test_a_repeated_run_has_the_same_weights_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    """Whatever became of the profile that it was trained with."""
    own = profile(tmp_path, lr=5e-3, rank=4, alpha=4.0)
    words = [f"model.path={tiny_model}", "model=demo", "profile=mine", "tracking=off", "train.max_steps=3"]
    quick = ["sample.num_inference_steps=1", "train.effective_batch_size=2", "network.dropout=0.1"]
    done = run_py("-cd", str(own), *words, *quick, "hydra.run.dir=first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    profile(tmp_path, lr=1e-4, rank=8, alpha=8.0)
    again = verb(str(tmp_path / "first"), "--", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "optimizer.lr=0.005   (now 0.0001)" in again.stdout
    (second,) = (tmp_path / "outputs").glob("*/*")
    weights = [path for run_dir in (tmp_path / "first", second) for path in (run_dir / "weights").glob("*.safetensors")]
    assert len(weights) == 2
    assert weights[0].read_bytes() == weights[1].read_bytes()
