"""The runs on the disk: found by name, listed, shown, compared. One real run is rendered; others are copies of it,
whose journals the real journal writes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from pipeline import __main__
from pipeline.errors import RunError
from pipeline.journal import Journal
from pipeline.outcome import recorded, write_outcome
from pipeline.records import Status
from pipeline.runs import comparing, listing, naming, reading, telling
from pipeline.settings import PROJECT
from tests.given import picture, sd15_folder
from tests.test_run import HEAVY, run_py

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a real run of until=render."""
    folder = tmp_path_factory.mktemp("rendered")
    model = sd15_folder(folder / "model")
    for number in range(4):
        picture(folder / "pictures" / f"{number}.png", seed=number, size=(64, 64))
    words = ["model=demo", f"model.path={model}", f"data.dir={folder / 'pictures'}", "tracking=off", "until=render"]
    done = run_py(*words, f"hydra.run.dir={folder / 'run'}", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def make(rendered: Path, tmp_path: Path) -> Make:
    """A run under `tmp_path`: a copy that began, and maybe ended. Keywords are settings of its config.yaml."""

    def made(name: str, status: Status | None = "finished", *, heldout: float | None = 0.3, **settings: object) -> Path:
        run_dir = tmp_path / name
        shutil.copytree(rendered, run_dir)
        _set(run_dir, settings)
        journal = Journal(run_dir)
        journal.write("run", name=run_dir.name, command=f"python run.py name={run_dir.name}", fingerprint="f")
        journal.write("metric", step=0, values={"heldout/loss": 0.4})
        journal.write("step", step=3, steps=8, loss=0.5)
        if heldout is not None:
            journal.write("metric", step=3, values={"heldout/loss": heldout})
        if status == "failed":
            journal.write("failure", cause="out_of_memory", message="no memory left\nmore")
        if status is not None:
            outcome = recorded(run_dir, status, None)
            journal.write("end", **asdict(outcome))
            write_outcome(run_dir, outcome)
        journal.close()
        return run_dir

    return made


def _set(run_dir: Path, settings: dict[str, object]) -> None:
    path = run_dir / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for key, value in settings.items():
        group, name = key.split("__")
        config[group][name] = value
    path.write_text(yaml.safe_dump(config))


def _sweep(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "multirun.yaml").write_text("hydra: {overrides: {task: []}}\n")


def verb(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "runs", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=_environment())


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT)}


# -------------------------------------------------------------------------------------------------------------- names


def test_a_run_is_named_by_its_directory_or_the_end_of_its_path(make: Make, tmp_path: Path) -> None:
    run_dir = make("outputs/2026-01-01/12-00-00_style-ab12")
    for name in (str(run_dir), "12-00-00_style-ab12", "style-ab12", "2026-01-01/12-00-00_style-ab12"):
        assert naming.run_named(name, [tmp_path]) == run_dir


def test_a_run_is_named_by_the_beginning_of_its_mlflow_run(make: Make, tmp_path: Path) -> None:
    make("a")
    run_dir = make("b")
    (run_dir / "tracking.json").write_text(json.dumps({"run_id": "0123456789abcdef0123456789abcdef"}))
    assert naming.run_named("012345", [tmp_path]) == run_dir
    with pytest.raises(RunError, match="there is no run '01234'"):
        naming.run_named("01234", [tmp_path])


def test_a_trial_is_named_with_its_sweep(make: Make, tmp_path: Path) -> None:
    trial = make("multirun/2026-01-01/12-00-01_style-ab12/0")
    _sweep(trial.parent)
    assert naming.run_named("12-00-01_style-ab12/0", [tmp_path]) == trial
    with pytest.raises(RunError, match="there is no run '0'"):
        naming.run_named("0", [tmp_path])


def test_a_name_of_several_tells_them(make: Make, tmp_path: Path) -> None:
    paths = [make(f"outputs/{day}/12-00-00_style-ab12") for day in ("2026-01-01", "2026-01-02")]
    with pytest.raises(RunError, match="names 2 runs") as told:
        naming.run_named("style-ab12", [tmp_path])
    assert all(str(path) in str(told.value) for path in paths)


def test_an_unknown_name_tells_the_nearest(make: Make, tmp_path: Path) -> None:
    make("12-00-00_style-ab12")
    with pytest.raises(RunError, match="Did you mean 12-00-00_style-ab12"):
        naming.run_named("12-00-00_style-ab21", [tmp_path])


def test_a_sweep_in_place_of_a_run_tells_what_to_type(make: Make, tmp_path: Path) -> None:
    _sweep(make("12-00-01_style-ab12/0").parent)
    with pytest.raises(RunError, match="runs compare 12-00-01_style-ab12"):
        naming.run_named("style-ab12", [tmp_path])


def test_an_earlier_run_inside_of_a_directory_is_not_listed(make: Make, tmp_path: Path) -> None:
    run_dir = make("a")
    make("a/earlier/1")
    assert naming.runs_under([tmp_path]) == [run_dir]


# --------------------------------------------------------------------------------------------------------------- list


def names(folder: Path, **wanted: object) -> list[str]:
    return [run.name for run in listing.listed([folder], replace(listing.Wanted(), **wanted)).runs]  # type: ignore[arg-type]


def test_the_newest_run_is_the_first(make: Make, tmp_path: Path) -> None:
    for name in ("b", "c", "a"):
        make(name)
    assert names(tmp_path) == ["a", "c", "b"]
    assert names(tmp_path, limit=2) == ["a", "c"]


def test_the_best_have_the_lowest_heldout_loss_of_finished_weights(make: Make, tmp_path: Path) -> None:
    make("middle", heldout=0.2)
    make("lowest", heldout=0.1)
    make("stopped", "killed", heldout=0.05)
    make("unmeasured", heldout=None)
    assert names(tmp_path, best=True) == ["lowest", "middle"]


def test_states_are_told_apart(make: Make, rendered: Path, tmp_path: Path) -> None:
    ended: tuple[Status, ...] = ("finished", "failed", "killed", "pruned")
    for status in ended:
        make(status, status)
    make("silent", None)
    shutil.copytree(rendered, tmp_path / "rendered")
    states = {run.name: run.state for run in listing.listed([tmp_path], listing.Wanted()).runs}
    as_named = {str(name): str(name) for name in (*ended, "rendered")}
    assert states == {**as_named, "silent": "killed"}
    assert names(tmp_path, state="failed") == ["failed"]


def test_every_state_can_be_asked_for() -> None:
    assert __main__.STATES == reading.STATES


def test_a_run_whose_lock_is_held_is_running(make: Make) -> None:
    run_dir = make("a", None)
    with (run_dir / "run.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert reading.read_run(run_dir).state == "running"
    assert reading.read_run(run_dir).state == "killed"


def test_asking_for_the_state_makes_no_file(make: Make) -> None:
    run_dir = make("a", None)
    (run_dir / "run.lock").unlink()
    reading.read_run(run_dir)
    assert not (run_dir / "run.lock").exists()


def test_a_failed_run_says_why(make: Make) -> None:
    assert reading.read_run(make("a", "failed")).reason == "no memory left"


def test_an_outcome_of_another_version_is_made_out_from_the_journal(make: Make) -> None:
    run_dir = make("a")
    (run_dir / "outcome.json").write_text('{"status": "finished"}')
    run = reading.read_run(run_dir)
    assert (run.state, run.outcome.heldout_after) == ("finished", 0.3)


def test_the_trials_of_one_sweep_are_listed(make: Make, tmp_path: Path) -> None:
    make("outputs/x")
    _sweep(make("multirun/12-00-01_style-ab12/0").parent)
    make("multirun/12-00-01_style-ab12/1")
    assert names(tmp_path, sweep="ab12") == ["12-00-01_style-ab12/1", "12-00-01_style-ab12/0"]
    with pytest.raises(RunError, match="there are: 12-00-01_style-ab12"):
        names(tmp_path, sweep="nope")


def test_a_damaged_run_hides_no_other(make: Make, tmp_path: Path) -> None:
    make("whole")
    (make("damaged") / "config.yaml").write_text("{")
    found = listing.listed([tmp_path], listing.Wanted())
    assert [run.name for run in found.runs] == ["whole"]
    assert len(found.unreadable) == 1 and "damaged" in found.unreadable[0]


def test_the_list_loads_nothing_heavy(make: Make, tmp_path: Path) -> None:
    make("outputs/a")
    command = [sys.executable, "-X", "importtime", "-m", "pipeline", "runs", "list", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=_environment())
    assert "a" in [run["name"] for run in json.loads(done.stdout)["runs"]]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pipeline.runs.listing" in imported
    assert not imported.intersection(HEAVY)


def test_the_list_as_a_table(make: Make, tmp_path: Path) -> None:
    make("outputs/12-00-00_style-ab12", "killed")
    done = verb("list", "outputs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[3:] == [
        "killed",
        "demo",
        "style",
        "lora",
        "3/8",
        *["0.4000", "->", "0.3000"],
    ]


def test_the_list_says_which_sweep_a_trial_belongs_to_within_100_columns(make: Make, tmp_path: Path) -> None:
    """By a name that finds it again."""
    make("outputs/11-00-00_character-12cd")
    _sweep(make("multirun/2026-01-01/12-00-01_character-ab12/10", "killed", model__name="sdxl").parent)
    _sweep(make("multirun/rates/0").parent)
    done = verb("list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    at = head.index("sweep")
    sweeps = {row.split()[0]: row[at:].split()[0] if row[at] != " " else "" for row in rows}
    assert sweeps == {
        "rates/0": "rates",
        "character-ab12/10": "ab12",
        "11-00-00_character-12cd": "",
    }
    assert max(map(len, done.stdout.rstrip().splitlines())) <= 100
    assert names(tmp_path, sweep="ab12") == ["12-00-01_character-ab12/10"]
    assert naming.run_named("character-ab12/10", [tmp_path]).name == "10"


# --------------------------------------------------------------------------------------------------------------- show


def test_show_tells_what_a_run_was_and_how_it_ended(make: Make, tmp_path: Path) -> None:
    run_dir = make("a", "failed")
    told = verb("show", str(run_dir), cwd=tmp_path).stdout
    for text in ("python run.py name=a", "the demo model", "4 + 0 pictures", "hardware.precision", "no memory left"):
        assert text in " ".join(told.split())


def test_show_as_json_has_every_setting_and_its_source(make: Make, tmp_path: Path) -> None:
    told = json.loads(verb("show", str(make("a")), "--json", cwd=tmp_path).stdout)
    assert told["settings"]["train.resolution_px"] == 64
    assert {"key": "tracking.name", "value": "off", "source": "command line: tracking=off", "reason": ""} in told[
        "origins"
    ]
    assert told["made_with"]["packages"]["torch"]
    assert "memory" in [choice["key"] for choice in told["choices"]]
    assert set(told["files"]) == {"run"}


def test_credentials_of_a_command_are_not_told(make: Make) -> None:
    command = "python run.py tracking.uri=http://me:pw-1of7@host ++optimizer.args.api_key=pw-1of7"
    assert "pw-1of7" not in telling.run_json(replace(reading.read_run(make("a")), command=command))


# ------------------------------------------------------------------------------------------------------------ compare


def test_compared_runs_show_exactly_the_settings_that_differ(make: Make) -> None:
    runs = [reading.read_run(make("a", optimizer__lr=1e-3)), reading.read_run(make("b", optimizer__lr=2e-3))]
    assert comparing.compared(runs).differing == {"optimizer.lr": (1e-3, 2e-3)}


def test_a_setting_that_one_run_has_not_differs(make: Make) -> None:
    runs = [reading.read_run(make("a", optimizer__args={"x": None})), reading.read_run(make("b", optimizer__args={}))]
    differing = comparing.compared(runs).differing
    assert differing["optimizer.args.x"] == (None, comparing.ABSENT)


def test_the_lowest_heldout_loss_is_the_best(make: Make) -> None:
    runs = [reading.read_run(make(name, heldout=loss)) for name, loss in (("a", 0.3), ("b", 0.2))]
    assert comparing.compared(runs).best is runs[1]


def test_none_of_two_equal_runs_is_the_best(make: Make) -> None:
    assert comparing.compared([reading.read_run(make(name)) for name in ("a", "b")]).best is None


def test_losses_of_other_pictures_are_not_ranked(make: Make) -> None:
    runs = [reading.read_run(make("a")), reading.read_run(make("b", heldout=0.1, data__dir="/others"))]
    made = comparing.compared(runs)
    assert made.best is None
    assert "data.dir differ" in made.notes[0]


def test_one_run_alone_is_not_compared(make: Make, tmp_path: Path) -> None:
    make("a")
    with pytest.raises(RunError, match="a alone can't be compared"):
        comparing.compared_names(["a"], [tmp_path])


def test_a_sweep_compares_its_trials_the_best_first(make: Make, tmp_path: Path) -> None:
    for number, (loss, rate) in enumerate([(0.3, 1e-3), (0.2, 2e-3)]):
        make(f"multirun/12-00-01_style-ab12/{number}", heldout=loss, optimizer__lr=rate)
    _sweep(tmp_path / "multirun" / "12-00-01_style-ab12")
    told = json.loads(verb("compare", "12-00-01_style-ab12", "--json", cwd=tmp_path).stdout)
    assert [run["name"] for run in told["runs"]] == ["12-00-01_style-ab12/1", "12-00-01_style-ab12/0"]
    assert [run["best"] for run in told["runs"]] == [True, False]
    assert told["runs"][0]["differing"] == {"optimizer.lr": 2e-3}


@pytest.mark.parametrize("count", [2, 5])
def test_compared_runs_as_a_table(count: int, make: Make, tmp_path: Path) -> None:
    paths = [make(f"run{number}", optimizer__lr=number / 100, heldout=0.3 - number / 100) for number in range(count)]
    done = verb("compare", *map(str, paths), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "optimizer.lr" in done.stdout
    assert f"run{count - 1} (best)" in done.stdout


# ------------------------------------------------------------------------------------------------------------- repair


def test_repair_as_json(tmp_path: Path) -> None:
    done = verb("repair", str(tmp_path), "--json", cwd=tmp_path)
    assert set(json.loads(done.stdout)) == {"repaired", "told"}
