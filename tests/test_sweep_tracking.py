"""A sweep in a real MLflow store: its trials, the run that sums them up, the named best, the view and the links."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pipeline.checks.rates import comparable_rate
from pipeline.log import MlflowRecord, log
from pipeline.outcome import recorded
from pipeline.records import Status
from pipeline.sweep.names import MAX_NAME_LENGTH
from pipeline.sweep.summary import Summary, summarize
from pipeline.tracking import sweeps
from pipeline.tracking.store import Client, open_client, store_at
from tests.sweep_folders import add_trial, begin_trial, new_sweep
from tests.test_tracking_runs import BEGAN, Place, job_for, place_in, plan_for

NAME = "multirun/lr"
MODEL = "models:/multirun_lr@best"


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store costs seconds: it is made once."""
    folder = tmp_path_factory.mktemp("template")
    open_client(store_at(None, folder))
    return folder / "mlflow.db"


class Swept:
    """A store, and a sweep whose trials are recorded in it."""

    def __init__(self, folder: Path, empty_store: Path, name: str = "lr") -> None:
        self.place: Place = place_in(folder, empty_store)
        self.dir = new_sweep(folder / "multirun" / name, "profile=style", "optimizer.lr=1e-4,1e-3,1e-2")

    @property
    def client(self) -> Client:
        return self.place.client

    def add(
        self,
        number: int,
        lr: str,
        *,
        loss: float | None = None,
        ends: Status = "finished",
        rank: str | None = None,
        **more: Any,
    ) -> str:
        """The id of the trial's MLflow run."""
        varied = {"optimizer.lr": lr} | ({} if rank is None else {"network.rank": rank})
        run_dir = add_trial(self.dir, number, varied, loss=loss, ends=ends, **more)
        plan = plan_for(self.place, f"optimizer.lr={lr}")
        plan = replace(plan, rate=comparable_rate(plan.settings))
        job = replace(job_for(self.place), run_dir=run_dir)
        with log(plan, job, command=f"python run.py optimizer.lr={lr}", began=BEGAN + number) as record:
            record.close_with(recorded(run_dir, ends, None))
        assert isinstance(record, MlflowRecord) and record.mlflow_run_id is not None, record.warnings
        return record.mlflow_run_id

    def runs(self, search: str = "") -> list[Any]:
        experiment = self.client.get_experiment_by_name("tests")
        return list(self.client.search_runs([experiment.experiment_id], search))

    def summaries(self) -> list[Any]:
        return self.runs("tags.kind = 'sweep'")


@pytest.fixture
def swept(tmp_path: Path, empty_store: Path) -> Swept:
    return Swept(tmp_path, empty_store)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Swept, Summary, Mapping[int, str]]:
    """Trial 1 is best, 2 failed, 3 was pruned, 4 goes on and MLflow has not heard of it."""
    swept = Swept(tmp_path_factory.mktemp("told"), empty_store)
    ids = {
        0: swept.add(0, "0.0001", loss=0.3),
        1: swept.add(1, "0.001", loss=0.1),
        2: swept.add(2, "0.01", ends="failed", reason="the loss is nan | <b>so</b>"),
        3: swept.add(3, "0.00001", loss=0.39, ends="pruned", reason="behind the median", weights=None),
    }
    add_trial(swept.dir, 4, {"optimizer.lr": "0.1"}, ends=None)
    summarize(swept.dir)
    return swept, summarize(swept.dir), ids


Told = tuple[Swept, Summary, Mapping[int, str]]


def query(link: str | None) -> dict[str, str]:
    assert link is not None
    return {name: values[0] for name, values in parse_qs(urlsplit(link).fragment.partition("?")[2]).items()}


# -------------------------------------------------------------------------------------------------------------- trials


def test_trials_are_flat_and_named_by_what_varied(told: Told) -> None:
    swept, _, ids = told
    trials = {run.info.run_id: run for run in swept.runs("tags.kind = 'trial'")}
    names = {number: trials[run_id].info.run_name for number, run_id in ids.items()}
    assert names == {0: "lr1e-4", 1: "lr1e-3", 2: "lr0.01", 3: "lr1e-5"}
    assert all(run.data.tags["sweep"] == NAME for run in trials.values())
    assert not any("mlflow.parentRunId" in run.data.tags for run in trials.values())


def test_no_param_differs_but_what_varied(told: Told) -> None:
    trials = told[0].runs("tags.kind = 'trial'")
    differing = {key for key in trials[0].data.params if len({run.data.params[key] for run in trials}) > 1}
    assert differing == {"optimizer.lr"}


def test_a_trial_of_before_the_tag_is_given_it(swept: Swept) -> None:
    run_id = swept.add(0, "0.1", loss=0.2)
    swept.client.delete_tag(run_id, "kind")
    summarize(swept.dir)
    assert swept.client.get_run(run_id).data.tags["kind"] == "trial"


# ------------------------------------------------------------------------------------------------------------- summary


def test_one_run_sums_the_sweep_up_however_often_it_is_written(told: Told) -> None:
    swept, summary, _ = told
    runs = swept.summaries()
    assert summary.warnings == ()
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED" and runs[0].data.tags["sweep"] == NAME
    assert len(runs[0].info.run_name) <= MAX_NAME_LENGTH
    assert summary.links is not None and runs[0].info.run_id in summary.links.summary


def test_the_summary_has_the_figures_of_the_best(told: Told) -> None:
    swept, _, ids = told
    run = swept.summaries()[0]
    expected = {"trials": 5, "trials_finished": 2, "best_heldout_after": 0.1, "best_heldout_best_step": 20}
    assert {name: run.data.metrics[f"final/{name}"] for name in expected} == expected
    assert run.data.tags["best_run_id"] == ids[1]


def test_the_files_of_the_report_are_at_the_root_of_the_summary(told: Told) -> None:
    swept, summary, _ = told
    files = {file.path for file in swept.client.list_artifacts(swept.summaries()[0].info.run_id)}
    assert files == {"ranking.json", "grid.png", "curves.png", "report.html"} == {f.name for f in summary.report.files}


def test_a_picture_that_can_not_be_drawn_any_more_goes_and_the_note_says_why(swept: Swept) -> None:
    for number, (lr, rank) in enumerate(itertools.product(("0.1", "0.01"), ("8", "16"))):
        swept.add(number, lr, loss=0.1 + number / 50, rank=rank)
    summarize(swept.dir)
    (run,) = swept.summaries()
    assert "importance.png" in {each.path for each in swept.client.list_artifacts(run.info.run_id)}
    shutil.rmtree(swept.dir / "3")
    summarize(swept.dir)
    assert {each.path for each in swept.client.list_artifacts(run.info.run_id)} == {
        *("curves.png", "grid.png", "ranking.json", "report.html"),
    }
    (run,) = swept.summaries()
    assert "No importance.png: 3 of at least 4 trials have finished." in run.data.tags["mlflow.note.content"]


def test_the_note_ranks_the_trials(told: Told) -> None:
    note = told[0].summaries()[0].data.tags["mlflow.note.content"]
    rows = [[cell.strip() for cell in line.split(" | ")] for line in note.splitlines() if line.startswith("| ")]
    assert note.startswith("**Best: lr 1e-3**, held-out loss 0.1000\n")
    assert [row[:3] for row in rows[2:4]] == [["| 1", "1e-3", "0.1000"], ["| 2", "1e-4", "0.3000"]]
    assert "python run.py profile=style optimizer.lr=0.001" in note


def test_a_reason_can_not_break_the_table_of_the_note(told: Told) -> None:
    note = told[0].summaries()[0].data.tags["mlflow.note.content"]
    assert r"failed: the loss is nan \| &lt;b>so&lt;/b>" in note


def test_the_summary_is_known_again_when_the_sweep_has_grown(swept: Swept) -> None:
    swept.add(1, "0.2", loss=0.2)
    summarize(swept.dir)
    swept.add(0, "0.1", loss=0.1)
    summarize(swept.dir)
    assert [run.data.metrics["final/trials"] for run in swept.summaries()] == [2]


def test_a_folder_that_was_renamed_is_the_same_sweep(swept: Swept) -> None:
    run_id = swept.add(0, "0.1", loss=0.2)
    summarize(swept.dir)
    links = summarize(swept.dir.rename(swept.dir.with_name("renamed"))).links
    assert links is not None and links.model == MODEL
    assert [run.info.run_id for run in swept.runs(query(links.charts)["searchFilter"])] == [run_id]
    assert len(swept.summaries()) == 1


def test_two_sweeps_of_one_name_have_a_summary_each(swept: Swept, tmp_path: Path) -> None:
    swept.add(0, "0.1", loss=0.2)
    summarize(swept.dir)
    own_dir, swept.dir = swept.dir, new_sweep(tmp_path / "elsewhere" / "multirun" / "lr", "profile=style")
    swept.add(0, "0.3", loss=0.3)
    summarize(swept.dir)
    assert own_dir != swept.dir
    assert {run.data.tags["sweep_dir"] for run in swept.summaries()} == {str(own_dir), str(swept.dir)}


def test_a_sweep_without_a_finished_trial_has_failed(swept: Swept) -> None:
    swept.add(0, "0.1", ends="failed", reason="no")
    summary = summarize(swept.dir)
    assert swept.summaries()[0].info.status == "FAILED"
    assert summary.links is not None and summary.links.model is None


def test_a_trial_that_was_deleted_in_mlflow_is_left_out_of_the_links(swept: Swept) -> None:
    kept, gone = swept.add(0, "0.1", loss=0.2), swept.add(1, "0.2", loss=0.1)
    swept.client.delete_run(gone)
    links = summarize(swept.dir).links
    assert links is not None and json.loads(query(links.compare)["runs"]) == [kept]


def test_secrets_of_the_environment_stay_out_of_mlflow(swept: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a-very-secret-word")
    swept.add(0, "0.1", loss=0.2, shared=("profile=style", "+x=a-very-secret-word"))
    summarize(swept.dir)
    run = swept.summaries()[0]
    assert "a-very-secret-word" in (swept.dir / "report.html").read_text()
    files = [swept.client.download_artifacts(run.info.run_id, name) for name in ("report.html", "ranking.json")]
    kept = "".join(Path(file).read_text() for file in files)
    assert "a-very-secret-word" not in kept + json.dumps(run.data.tags) and "***" in kept


# --------------------------------------------------------------------------------------------------- the store is down


def test_a_store_that_fails_is_a_warning_and_the_files_are_there(swept: Swept) -> None:
    swept.add(0, "0.1", loss=0.2)
    assert swept.place.store.database is not None
    swept.place.store.database.write_bytes(b"no database")
    summary = summarize(swept.dir)
    assert summary.links is None
    assert "MLflow does not have the summary of this sweep" in summary.warnings[0]
    assert "python -m pipeline runs report" in summary.warnings[0]
    assert (swept.dir / "report.html").exists()


def test_a_damaged_state_of_a_trial_is_a_warning(swept: Swept) -> None:
    swept.add(0, "0.1", loss=0.2)
    (begin_trial(swept.dir, 1, ["optimizer.lr=0.2"]) / "tracking.json").write_text("{")
    summary = summarize(swept.dir)
    assert summary.links is not None
    assert ["tracking.json" in warning for warning in summary.warnings] == [True]


# -------------------------------------------------------------------------------------------------------- best weights


def weights_of(swept: Swept) -> bytes:
    """What `models:/multirun_lr@best` leads to."""
    version = swept.client.get_model_version_by_alias("multirun_lr", "best")
    source = swept.client.get_model_version_download_uri(version.name, version.version)
    run_id, _, folder = source.removeprefix("runs:/").partition("/")
    return (Path(swept.client.download_artifacts(run_id, folder)) / "style-demo.safetensors").read_bytes()


def test_the_best_weights_have_a_name(told: Told) -> None:
    swept, summary, ids = told
    assert summary.links is not None and summary.links.model == MODEL
    versions = swept.client.search_model_versions("name = 'multirun_lr'")
    assert [version.run_id for version in versions] == [ids[1]]
    assert weights_of(swept) == b"weights"


def test_the_name_follows_the_best_trial(swept: Swept) -> None:
    first = swept.add(0, "0.1", loss=0.2, weights=b"first")
    summarize(swept.dir)
    better = swept.add(1, "0.2", loss=0.1, weights=b"better")
    summarize(swept.dir)
    assert weights_of(swept) == b"better"
    assert swept.client.get_model_version_by_alias("multirun_lr", "best").run_id == better
    assert {v.run_id for v in swept.client.search_model_versions("name = 'multirun_lr'")} == {first, better}


def test_a_best_trial_without_weights_has_no_name(swept: Swept) -> None:
    swept.add(0, "0.1", loss=0.2, weights=None)
    summary = summarize(swept.dir)
    assert summary.links is not None and summary.links.model is None and summary.warnings == ()


# ------------------------------------------------------------------------------------------------------ view and links


def views_of(swept: Swept) -> list[dict[str, Any]]:
    tags = swept.client.get_experiment_by_name("tests").tags
    views = [json.loads(value) for name, value in tags.items() if name.startswith("mlflow.sharedViewState.")]
    packed = [view["state"].removeprefix("deflate;") for view in views]
    return [json.loads(zlib.decompress(base64.b64decode(each))) for each in packed]


def test_the_saved_view_has_the_columns_that_matter(told: Told) -> None:
    swept, summary, _ = told
    views = views_of(swept)
    assert len(views) == 1
    assert views[0]["selectedColumns"][:2] == ["params.`optimizer.lr`", "metrics.`final/heldout_after`"]
    assert views[0]["orderByKey"] == "metrics.`final/heldout_after`" and views[0]["orderByAsc"]
    key = query(summary.links.table if summary.links else None)["viewStateShareKey"]
    assert f"mlflow.sharedViewState.{key}" in swept.client.get_experiment_by_name("tests").tags


def test_a_trial_without_weights_says_why_in_its_run_and_in_the_view(told: Told) -> None:
    swept, _, ids = told
    tags = swept.client.get_run(ids[3]).data.tags
    assert tags["ended"] == "pruned: behind the median"
    assert "**pruned**: behind the median" in tags["mlflow.note.content"]
    assert "ended" not in swept.client.get_run(ids[0]).data.tags
    assert views_of(swept)[0]["selectedColumns"][-1] == "tags.`ended`"


def test_a_trial_that_goes_on_no_longer_says_why_it_had_ended(swept: Swept) -> None:
    run_id = swept.add(0, "0.1", ends="failed", reason="no memory left")
    assert swept.client.get_run(run_id).data.tags["ended"] == "failed: no memory left"
    state = (swept.dir / "0" / "tracking.json").read_text()
    shutil.rmtree(swept.dir / "0")
    (swept.dir / "0").mkdir()
    (swept.dir / "0" / "tracking.json").write_text(state)
    assert swept.add(0, "0.1", loss=0.2) == run_id
    assert "ended" not in swept.client.get_run(run_id).data.tags


def test_a_group_is_shown_by_the_name_of_its_option(swept: Swept) -> None:
    params = {"profile.name": "style", "network.algo": "loha", "seed": "0"}
    assert sweeps._params_of(["profile", "network", "seed", "experiment"], params) == [
        "profile.name",
        "network.algo",
        "seed",
    ]


def test_the_compare_page_has_all_trials_the_best_first(told: Told) -> None:
    _, summary, ids = told
    assert summary.links is not None
    runs = json.loads(query(summary.links.compare)["runs"])
    assert runs[:2] == [ids[1], ids[0]] and set(runs) == set(ids.values())


def test_the_charts_are_of_the_trials_alone(told: Told) -> None:
    swept, summary, ids = told
    assert summary.links is not None
    found = swept.runs(query(summary.links.charts)["searchFilter"])
    assert {run.info.run_id for run in found} == set(ids.values())


@pytest.mark.parametrize("name", ["it's", "a b%20c", "x&y=z#1"])
def test_odd_names_of_sweeps_can_be_searched_for(tmp_path: Path, empty_store: Path, name: str) -> None:
    swept = Swept(tmp_path, empty_store, name)
    run_id = swept.add(0, "0.1", loss=0.2)
    links = summarize(swept.dir).links
    assert links is not None and links.model is not None
    assert [run.info.run_id for run in swept.runs(query(links.charts)["searchFilter"])] == [run_id]


def test_the_links_are_told_on_the_terminal(told: Told) -> None:
    _, summary, _ = told
    assert summary.links is not None
    text = "\n".join(summary.lines)
    assert all(link in text for link in (summary.links.summary, summary.links.charts, summary.links.compare, MODEL))
    assert f"runs ui --store {told[0].place.store.dir}" in text
