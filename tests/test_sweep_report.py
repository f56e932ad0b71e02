"""The report of a sweep in its folder: what it ranks, draws and tells, of trials that ended in every way."""

from __future__ import annotations

import base64
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from pipeline.__main__ import main
from pipeline.errors import UnreadableFile
from pipeline.locks import RUN_LOCK, locked
from pipeline.sample_grid import CELL_PX
from pipeline.sweep import importance, pictures
from pipeline.sweep.importance import shares_of
from pipeline.sweep.names import MAX_NAME_LENGTH, labels, short_name
from pipeline.sweep.pictures import grid_of
from pipeline.sweep.report import Report, write_report
from pipeline.sweep.results import axes_of, ranked, results_of, varied_in, varied_of
from pipeline.sweep.summary import find_sweep, summarize
from tests.sweep_folders import COLOURS, add_trial, begin_trial, new_sweep

HOSTILE = "</pre><script>alert(\"x\")</script><img src=http://evil.example/x.png> & '$name'"


@pytest.fixture
def sweep_dir(tmp_path: Path) -> Path:
    return new_sweep(tmp_path / "multirun" / "lr", "profile=style", "optimizer.lr=1e-4,1e-3", "network.rank=4,16")


def axes(lr: str, rank: str = "4") -> dict[str, str]:
    return {"optimizer.lr": lr, "network.rank": rank}


def of_every_kind(sweep_dir: Path) -> Report:
    """Trial 1 is best; 2 failed, 3 was pruned, 4 goes on, 5 was killed with its runner."""
    add_trial(sweep_dir, 0, axes("0.0001"), loss=0.3)
    add_trial(sweep_dir, 1, axes("0.001"), loss=0.1)
    add_trial(sweep_dir, 2, axes("0.001", "16"), ends="failed", reason="the loss is nan at step 20")
    add_trial(sweep_dir, 3, axes("0.0001", "16"), ends="pruned", reason="behind the median of 0.2", weights=None)
    add_trial(sweep_dir, 4, axes("0.002"), ends=None)
    (add_trial(sweep_dir, 5, axes("0.003"), ends=None) / RUN_LOCK).touch()
    return write_report(sweep_dir)


# ------------------------------------------------------------------------------------------------------------- ranking


def test_the_lowest_heldout_loss_is_first_and_unfinished_trials_are_last(sweep_dir: Path) -> None:
    report = of_every_kind(sweep_dir)
    assert [result.number for result in report.results][:2] == [1, 0]
    assert report.best is report.results[0]


def test_the_ranking_is_data(sweep_dir: Path) -> None:
    of_every_kind(sweep_dir)
    told = json.loads((sweep_dir / "ranking.json").read_text())
    best = told["trials"][0]
    assert told["sweep"] == "multirun/lr" and told["axes"] == ["optimizer.lr", "network.rank"]
    assert (best["rank"], best["number"], best["varied"]) == (1, 1, axes("0.001"))
    assert best["heldout_after"] == 0.1 and best["heldout_best_step"] == 20 and best["peak_memory_bytes"] == 2**30
    states = {trial["number"]: (trial["rank"], trial["state"], trial["reason"]) for trial in told["trials"]}
    assert states[2] == (None, "failed", "the loss is nan at step 20")
    assert states[3] == (None, "pruned", "behind the median of 0.2")


def test_a_trial_whose_runner_is_gone_does_not_run(sweep_dir: Path) -> None:
    states = {result.number: result.state for result in of_every_kind(sweep_dir).results}
    assert (states[4], states[5]) == ("running", "killed")


def test_a_trial_whose_runner_holds_its_lock_runs(sweep_dir: Path) -> None:
    run_dir = add_trial(sweep_dir, 0, axes("0.0001"), ends=None)
    with locked(run_dir / RUN_LOCK, wait_seconds=1):
        assert write_report(sweep_dir).results[0].state == "running"


def test_a_folder_without_trials_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="no trial has begun"):
        write_report(tmp_path)


def test_nothing_is_best_before_a_trial_has_finished(sweep_dir: Path) -> None:
    add_trial(sweep_dir, 0, axes("0.0001"), ends="failed", reason="no")
    assert write_report(sweep_dir).best is None
    assert "No trial has finished" in (sweep_dir / "report.html").read_text()


def test_a_figure_that_hydra_writes_in_another_way_did_not_vary() -> None:
    shared = ["optimizer.lr=1e-4", "seed=0,1", "data.prompts=[a, b]", "+experiment=x"]
    own = ["optimizer.lr=0.0001", "seed=1", "data.prompts=[a,b]", "experiment=x"]
    assert varied_of(own, shared) == {"seed": "1"}


def test_only_what_differs_is_an_axis(sweep_dir: Path) -> None:
    for number, lr in enumerate(("0.1", "0.2")):
        add_trial(sweep_dir, number, axes(lr), loss=0.1)
    assert axes_of(results_of(sweep_dir)) == ["optimizer.lr"]


def test_what_a_trial_varies_is_known_before_it_starts(sweep_dir: Path) -> None:
    run_dir = begin_trial(sweep_dir, 7, ["profile=style", "optimizer.lr=0.001", "network.rank=4"])
    assert varied_in(run_dir) == axes("0.001")
    assert varied_in(sweep_dir) == {}


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("varied", "name"),
    [
        ({"optimizer.lr": "0.0005", "network.rank": "32"}, "lr5e-4 r32"),
        ({"optimizer.lr": "1e-05", "seed": "3"}, "lr1e-5 s3"),
        ({"profile": "style", "network": "loha"}, "style loha"),
        ({"profile": "character", "optimizer.lr": "0.0001"}, "cha lr1e-4 #12"),
        ({"train.shuffle_tags": "true"}, "st=on"),
        ({"model.path": "'/models/some/x.safetensors'"}, "path=x.s #12"),
        ({"optimizer.lr": "0.000123456", "network.rank": "32"}, "lr1.23e-4 r32"),
        ({"profile": "photoreal", "optimizer.lr": "0.0001", "network.rank": "32", "seed": "1"}, "pho lr1e-4 #12"),
    ],
)
def test_a_trial_is_named_by_what_varied(varied: dict[str, str], name: str) -> None:
    assert short_name(varied, "12") == name


@pytest.mark.parametrize("length", range(1, 12))
@pytest.mark.parametrize("value", ["0.123456789", "a long word of text", "", "-1e300", "\u00e9" * 40, "[1,2,3]"])
def test_no_name_is_longer_than_mlflow_shows(length: int, value: str) -> None:
    varied = {f"train.setting_{index}": value for index in range(length)}
    assert 0 < len(short_name(varied, "1234")) <= MAX_NAME_LENGTH


def test_names_that_are_cut_stay_apart() -> None:
    names = {short_name({f"train.setting_{i}": f"0.{n}12345" for i in range(6)}, str(n)) for n in range(100)}
    assert len(names) == 100


def test_labels_are_words_and_say_the_key_where_two_end_alike() -> None:
    assert labels({"optimizer.lr": "0.0005", "profile": "style", "seed": "0"}) == ["lr 5e-4", "style", "seed 0"]
    assert labels({"a.x": "1", "b.x": "2"}) == ["a.x 1", "b.x 2"]


# ------------------------------------------------------------------------------------------------------------ pictures


def cell_colours(grid: Path, rows: int) -> list[tuple[int, ...]]:
    """Of the last column, a row each."""
    with Image.open(grid) as picture:
        middle = [picture.height - CELL_PX * (rows - row) + CELL_PX // 2 for row in range(rows)]
        return [picture.convert("RGB").getpixel((picture.width - CELL_PX // 2, y)) for y in middle]  # type: ignore[misc]


def test_the_grid_has_the_last_samples_of_the_best_trial_on_top(sweep_dir: Path) -> None:
    of_every_kind(sweep_dir)
    best, other = (Image.new("RGB", (1, 1), COLOURS[number]).getpixel((0, 0)) for number in (1, 0))
    assert cell_colours(sweep_dir / "grid.png", 2) == [best, other]


def test_rows_beyond_the_cap_are_left_out_and_counted(sweep_dir: Path) -> None:
    for number in range(pictures.MAX_ROWS + 3):
        add_trial(sweep_dir, number, axes(f"0.{number + 1}"), loss=0.1 + number / 100)
    grid = grid_of(ranked(results_of(sweep_dir)), "grid.png")
    assert "3 more trials with samples are left out" in grid.note
    write_report(sweep_dir)
    with Image.open(sweep_dir / "grid.png") as picture:
        assert picture.height // CELL_PX == pictures.MAX_ROWS


def test_a_broken_picture_leaves_its_trial_out(sweep_dir: Path) -> None:
    for number in range(2):
        run_dir = add_trial(sweep_dir, number, axes(f"0.{number + 1}"), loss=0.1)
    (run_dir / "samples" / "step-000020_0.png").write_bytes(b"\x89PNG\r\n")
    assert "1 has no samples" in grid_of(results_of(sweep_dir), "grid.png").note


def test_a_picture_that_there_is_nothing_to_draw_for_goes(sweep_dir: Path) -> None:
    (sweep_dir / "grid.png").write_bytes(b"old")
    begin_trial(sweep_dir, 0, ["optimizer.lr=0.1"])
    report = write_report(sweep_dir)
    assert not (sweep_dir / "grid.png").exists()
    assert [reason.partition(":")[0] for reason in report.left_out] == [
        "no curves.png",
        "no importance.png",
        "no grid.png",
    ]


def test_a_library_that_is_not_there_costs_its_picture_only(sweep_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # an import of it fails
    report = of_every_kind(sweep_dir)
    assert [reason.partition(":")[0] for reason in report.left_out] == ["no curves.png", "no importance.png"]
    assert report.best is not None and (sweep_dir / "grid.png").exists()


@pytest.mark.parametrize("formula", ["$x^$", r"\frac{$", "a\nb$$"])
def test_a_text_that_looks_like_a_formula_is_drawn_as_text(sweep_dir: Path, formula: str) -> None:
    for number in range(4):
        add_trial(sweep_dir, number, {"data.name": f"{formula}{number}", "seed": str(number % 2)}, loss=0.1 + number)
    assert write_report(sweep_dir).left_out == ()


# ---------------------------------------------------------------------------------------------------------- importance


def test_what_moves_the_loss_is_important_and_what_does_not_is_not(sweep_dir: Path) -> None:
    for number in range(12):
        lr, seed = ("0.0001", "0.001", "0.01")[number % 3], str(number // 3)
        add_trial(sweep_dir, number, {"optimizer.lr": lr, "seed": seed}, loss=0.1 + (number % 3) * 0.1)
    shares = shares_of(results_of(sweep_dir))
    assert isinstance(shares, dict) and list(shares) == ["optimizer.lr", "seed"]
    assert shares["optimizer.lr"] > 0.9


def test_an_axis_of_words_counts_too(sweep_dir: Path) -> None:
    for number in range(12):
        varied = {"network": ("lora", "loha")[number % 2], "seed": str(number // 2)}
        add_trial(sweep_dir, number, varied, loss=0.1 + (number % 2) * 0.1)
    shares = shares_of(results_of(sweep_dir))
    assert isinstance(shares, dict) and shares["network"] > 0.9


@pytest.mark.parametrize(
    ("varied", "losses", "reason"),
    [
        ([axes("0.1"), axes("0.2", "8"), axes("0.3")], [0.1, 0.2, 0.3], "3 of at least 4 trials have finished"),
        ([axes(f"0.{n}") for n in range(1, 6)], [0.1, 0.2, 0.3, 0.4, 0.5], "only optimizer.lr varied"),
        ([axes(f"0.{n}", str(n)) for n in range(1, 6)], [0.1] * 5, "the loss was the same whatever varied"),
    ],
)
def test_the_reason_is_told_where_importance_can_not_be(
    sweep_dir: Path, varied: list[dict[str, str]], losses: list[float], reason: str
) -> None:
    for number, (own, loss) in enumerate(zip(varied, losses, strict=True)):
        add_trial(sweep_dir, number, own, loss=loss)
    assert importance.importance_of(results_of(sweep_dir), "importance.png").note == reason
    assert f"no importance.png: {reason}" in write_report(sweep_dir).left_out


# ---------------------------------------------------------------------------------------------------------------- page


class Read(HTMLParser):
    """Tags, their addresses, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_has_the_pictures_inside_and_asks_for_nothing(sweep_dir: Path) -> None:
    for number in range(4):
        add_trial(sweep_dir, number, axes(f"0.{number + 1}", str(number % 2)), loss=0.1 + number)
    report = write_report(sweep_dir)
    page = (sweep_dir / "report.html").read_text()
    addresses = Read(page).addresses
    inside = [base64.b64decode(address.removeprefix("data:image/png;base64,")) for address in addresses]
    assert {path.read_bytes() for path in report.files if path.suffix == ".png"} == set(inside)
    assert len(inside) == 3
    assert not re.search(r"url\(|@import|https?:", page)


def test_the_page_tells_best_failed_and_pruned(sweep_dir: Path) -> None:
    of_every_kind(sweep_dir)
    text = Read((sweep_dir / "report.html").read_text()).text
    assert "6 trials: 2 finished, 1 running, 1 pruned, 1 failed, 1 killed" in text
    assert "python run.py profile=style optimizer.lr=0.001 network.rank=4" in text
    assert "Best: lr 1e-3, rank 4" in text and "0.1000" in text and "1.0 GiB" in text
    assert "the loss is nan at step 20" in text and "behind the median of 0.2" in text
    assert "more of it" not in text


def test_hostile_texts_stay_texts(sweep_dir: Path) -> None:
    add_trial(sweep_dir, 0, {"data.name": HOSTILE, "x.$name": HOSTILE}, loss=0.1, prompts=(HOSTILE, "$counts"))
    add_trial(sweep_dir, 1, {"data.name": "b"}, ends="failed", reason=HOSTILE)
    write_report(sweep_dir)
    page = Read((sweep_dir / "report.html").read_text())
    assert "script" not in page.tags
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert HOSTILE in page.text


# ------------------------------------------------------------------------------------------------------------ the verb


def test_the_verb_writes_the_files_and_tells_the_best(sweep_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_trial(sweep_dir, 0, axes("0.0001"), loss=0.3)
    add_trial(sweep_dir, 1, axes("0.001"), loss=0.1)
    assert main(["runs", "report", str(sweep_dir), "--no-tracking"]) == 0
    out = capsys.readouterr().out
    rows = [line.split()[:3] for line in out.splitlines()]
    assert rows.index(["1", "1e-3", "0.1000"]) < rows.index(["2", "1e-4", "0.3000"])
    assert "the best again  python run.py profile=style optimizer.lr=0.001 network.rank=4" in out
    assert (sweep_dir / "report.html").exists()


def test_trials_that_were_not_tracked_have_no_links(sweep_dir: Path) -> None:
    add_trial(sweep_dir, 0, axes("0.0001"), loss=0.3)
    summary = summarize(sweep_dir)
    assert (summary.links, summary.warnings) == (None, ())


def test_a_sweep_is_found_by_its_name(tmp_path: Path) -> None:
    root = tmp_path / "multirun"
    dated, plain = (new_sweep(root / name) for name in ("2026-01-31/10-00-00_style-1a2b", "my_lr"))
    found = [find_sweep(name, [root]) for name in ("10-00-00_style-1a2b", "2026-01-31/10-00-00_style-1a2b", "my_lr")]
    assert found == [dated, dated, plain]
    assert find_sweep(str(plain), [root]) == plain


def test_a_sweep_that_is_not_there_has_the_nearest_names_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    near = new_sweep(tmp_path / "multirun" / "style_lr")
    assert main(["runs", "report", "multirun/stile_lr"]) == 1
    assert f"python -m pipeline runs report {near}" in capsys.readouterr().err
