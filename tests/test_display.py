"""What the user sees of a run, on a terminal and elsewhere."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.display import Counted, Lines, Training, open_display
from pipeline.records import Event, Kind, Outcome, PredictedMemory
from pipeline.settings import PROJECT
from pipeline.wording import count, duration, outcome_lines, short_path, size


def event(kind: Kind, **data: Any) -> Event:
    return Event(kind, 0.0, data)


def step(number: int, steps: int = 100, loss: object = 0.5) -> Event:
    return event("step", step=number, steps=steps, loss=loss, lr=1e-3, steps_per_second=2.0, memory_bytes=1)


def printed(*events: Event) -> list[str]:
    output = io.StringIO()
    display = Lines(output)
    for each in events:
        display.show(each)
    return output.getvalue().splitlines()


def test_stage_is_one_line_with_its_finding_and_time() -> None:
    lines = printed(event("stage", name="detect", seconds=0.42, summary="cpu, 2 cores · 24 + 8 pictures"))
    assert lines == ["✓ detect   cpu, 2 cores · 24 + 8 pictures   0.4 s"]


def test_stage_that_did_not_succeed_is_marked() -> None:
    stage = event("stage", name="execute", seconds=1.0, summary="failed after 3 steps", succeeded=False)
    assert printed(stage)[0].startswith("✗ execute")


def test_choices_and_warnings_are_told() -> None:
    lines = printed(
        event("choice", key="hardware.precision", value="fp32", reason="few CPUs have bf16"),
        event("warning", text="3 captions are empty"),
    )
    assert lines == ["    hardware.precision=fp32: few CPUs have bf16", "  ! 3 captions are empty"]


def test_a_line_is_printed_about_every_tenth_of_the_way() -> None:
    lines = printed(*(step(number) for number in range(1, 101)))
    assert 10 <= len(lines) <= 12
    assert lines[-1].startswith("  step 100/100  loss 0.5000  2.00 steps/s")


def test_slow_training_prints_every_thirty_seconds() -> None:
    clock = iter(range(0, 10_000, 16))
    output = io.StringIO()
    display = Lines(output, now=lambda: next(clock))
    for number in range(1, 10):
        display.show(step(number, steps=10_000))
    assert 3 <= len(output.getvalue().splitlines()) <= 9


def test_heldout_loss_is_told_and_other_metrics_are_not() -> None:
    lines = printed(
        event("metric", step=5, values={"heldout/loss": 0.25, "x": 1.0}), event("metric", step=6, values={"x": 1.0})
    )
    assert lines == ["  held-out loss 0.2500 at step 5"]


def test_loss_is_smoothed_and_survives_nan() -> None:
    training = Training()
    for loss in (1.0, 0.0, "nan"):
        training.take(step(1, loss=loss).data)
    assert training.loss == pytest.approx(0.09 / 0.19)


def test_no_control_codes_off_a_terminal() -> None:
    output = io.StringIO()
    with open_display(output) as display:
        display.show(step(1))
        display.say(["weights"])
    assert "\x1b" not in output.getvalue()
    assert "rich" not in type(display).__module__


def test_signs_that_the_output_can_not_encode_are_replaced() -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Lines(output).show(event("stage", name="detect", seconds=1.0, summary="a · b"))
    output.seek(0)
    assert output.read().startswith("? detect")


def test_closed_pipe_does_not_end_the_run() -> None:
    script = """
import sys
from pipeline.display import open_display
from pipeline.records import Event
with open_display() as display:
    for number in range(20000):
        display.say(["a line"])
sys.stderr.write("went on")
"""
    shell = f'{sys.executable} -c "$SCRIPT" | head -n 1'
    done = subprocess.run(
        ["bash", "-c", shell],
        cwd=PROJECT,
        env={**os.environ, "SCRIPT": script},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "went on"


TERMINAL_SCRIPT = """
import time
from pipeline.display import open_display
from pipeline.records import Event
with open_display() as display:
    display.show(Event("phase", 0.0, {"text": "looking at pictures: 5 of 9", "done": 5, "of": 9}))
    time.sleep(0.12)
    display.show(Event("stage", 0.0, {"name": "detect", "seconds": 1.0, "summary": "cpu [2 cores]"}))
    display.show(Event("phase", 0.0, {"text": "encoding 24 pictures"}))
    for number in range(1, 6):
        data = {"step": number, "steps": 5, "loss": 0.5, "lr": 0.1, "steps_per_second": 2.0, "memory_bytes": 1}
        display.show(Event("step", 0.0, data))
        time.sleep(0.12)
    display.show(Event("stage", 0.0, {"name": "execute", "seconds": 1.0, "summary": "finished"}))
    display.say(["  weights   /a/very/" + "long/" * 30 + "path.safetensors"])
"""


def on_a_terminal(script: str, **variables: str) -> str:
    """What a process writes when its stdout is a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **variables}
    with subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, stdout=theirs, env=environment) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            written += part
        assert process.wait() == 0
    os.close(ours)
    return written.decode()


def test_terminal_gets_a_moving_bar() -> None:
    written = on_a_terminal(TERMINAL_SCRIPT)
    assert written.index("looking at pictures: 5 of 9") < written.index("cpu [2 cores]")
    assert "encoding 24 pictures" in written
    assert "step 5/5" in written
    assert "cpu [2 cores]" in written, "brackets are not markup"
    assert "\x1b[" in written
    assert "long/" * 30 + "path.safetensors" in written, "paths are not broken over lines"
    assert written.index("finished") > written.index("step 5/5")


def test_no_color_is_respected() -> None:
    written = on_a_terminal(TERMINAL_SCRIPT, NO_COLOR="1")
    assert "\x1b[32m" not in written
    assert "\x1b[33m" not in written


def test_dumb_terminal_gets_plain_lines() -> None:
    assert "\x1b" not in on_a_terminal(TERMINAL_SCRIPT, TERM="dumb")


def test_summary_tells_what_applies() -> None:
    outcome = Outcome("finished", None, "w.safetensors", 10, 75.0, 1.0, 0.5, 0.4, 0.3, 0.3, 10, 3 * 2**30, "abc")
    lines = outcome_lines(outcome, Path("/runs/1"), page="http://page", ui_command="python -m pipeline runs ui")
    text = "\n".join(lines)
    for words in ("/runs/1/w.safetensors", "1.0000 -> 0.5000", "0.4000 -> 0.3000 (-25.0%)", "3.0 GiB", "1 min 15 s"):
        assert words in text
    bare = Outcome("finished", None, "w", 10, 75.0, None, None, None, None, None, None, None, None)
    assert len(outcome_lines(bare, Path("/runs/1"), page=None, ui_command=None)) == 2


def test_summary_tells_the_prediction_beside_the_peak() -> None:
    outcome = Outcome("finished", None, "w", 10, 75.0, None, None, None, None, None, None, 2**31, None)
    predicted = PredictedMemory(2**30, 2**31, 3 * 2**30, "training", "weights")
    lines = outcome_lines(outcome, Path("/runs/1"), page=None, ui_command=None, predicted=predicted)
    assert any("2.00 GiB, 1.00-3.00 GiB predicted" in line for line in lines)


def test_paths_are_relative_where_that_is_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_path(tmp_path / "outputs" / "x") == "outputs/x"
    assert short_path(Path("/elsewhere")) == "/elsewhere"


def test_numbers_are_read_easily() -> None:
    assert [count(7), count(8_600_000), count(2_500_000_000)] == ["7", "8.6 M", "2.5 G"]
    assert [size(5), size(3 * 2**20)] == ["5 bytes", "3.0 MiB"]
    assert [duration(0.42), duration(59), duration(61), duration(7260)] == ["0.4 s", "59 s", "1 min 1 s", "2 h 1 min"]


def looking(done: int, pictures: int) -> Event:
    return event("phase", text=f"looking at pictures: {done} of {pictures}", done=done, of=pictures)


def test_what_is_counted_is_told_about_every_tenth_of_the_way() -> None:
    lines = printed(*(looking(done, 10_000) for done in range(50, 10_001, 50)))
    assert lines[:2] == ["  looking at pictures: 50 of 10000", "  looking at pictures: 1000 of 10000"]
    assert len(lines) == 11


def counted(*, seconds_each: float, pictures: int) -> list[str]:
    """What is shown of pictures that take so long each."""
    shown: list[Event] = []

    class Kept(Lines):
        def show(self, event: Event) -> None:
            shown.append(event)

    clock = [0.0]
    tell = Counted(Kept(io.StringIO()), "looking at pictures", now=lambda: clock[0])
    for done in range(1, pictures + 1):
        clock[0] += seconds_each
        tell(done, pictures)
    return [str(each.data["text"]) for each in shown]


def test_nothing_is_shown_of_what_is_done_within_a_second() -> None:
    assert counted(seconds_each=0.01, pictures=99) == []


def test_what_takes_longer_is_shown_a_few_times_a_second() -> None:
    told = counted(seconds_each=1 / 128, pictures=128 * 4)
    assert told[0] == "looking at pictures: 129 of 512"
    assert len(told) == 12
