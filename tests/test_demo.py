"""The demo's world, its judge, its data, and the report that is committed with the model."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from demo.judge import look
from demo.make_data import choose_scenes
from demo.world import COUNTS, Scene, all_scenes, draw, draw_sticker, held_out
from pipeline.settings import PROJECT

DEMO = PROJECT / "demo"
COMMITTED_BYTES = 25_000_000


def test_the_judge_is_right_about_real_drawings() -> None:
    rng = Random(3)
    scenes = rng.sample(all_scenes(), 150)
    seen = [(scene, look(draw(scene, rng))) for scene in scenes]
    right = sum((what.colour, what.shape) == (scene.colour, scene.shape) for scene, what in seen)
    assert right >= 147
    assert all(what.background == scene.background for scene, what in seen)
    assert sum(what.count == COUNTS[scene.count] for scene, what in seen) >= 145


@pytest.mark.parametrize("wrong", [{"colour": "blue"}, {"shape": "star"}])
def test_the_judge_sees_what_is_wrong(wrong: dict[str, str]) -> None:
    asked = Scene("one", "large", "red", "circle", "in the center", "white")
    drawn = Scene(**{**{name: getattr(asked, name) for name in Scene.__slots__}, **wrong})
    seen = look(draw(drawn, Random(0)))
    assert (seen.colour, seen.shape) != (asked.colour, asked.shape)


def test_an_empty_picture_shows_nothing() -> None:
    assert look(Image.new("RGB", (64, 64), "white")).count == 0


def test_a_caption_says_all_of_its_scene() -> None:
    assert len({scene.caption for scene in all_scenes()}) == len(all_scenes())


def test_every_word_of_the_world_is_held_out_and_trained_on() -> None:
    groups = [scene for scene in all_scenes() if held_out(scene)], [s for s in all_scenes() if not held_out(s)]
    words = [{word for scene in group for word in scene.caption.split()} for group in groups]
    assert words[0] == words[1]


def test_the_demo_data_is_what_its_script_draws() -> None:
    rng = Random(20)
    scenes = choose_scenes(rng)
    for place, scene in enumerate(scenes):
        split, number = ("train", place + 1) if place < 24 else ("heldout", place - 23)
        path = DEMO / "data" / split / f"{number:02}.png"
        assert path.with_suffix(".txt").read_text().strip() == scene.subject
        with Image.open(path) as committed:
            assert committed.convert("RGB").tobytes() == draw_sticker(scene, rng).tobytes()


def test_the_demo_has_its_pictures() -> None:
    assert len(list((DEMO / "data" / "train").glob("*.png"))) >= 24
    assert len(list((DEMO / "data" / "heldout").glob("*.png"))) >= 8


def test_the_report_says_that_the_demo_model_draws_what_it_is_told() -> None:
    rows = [json.loads(line) for line in (DEMO / "report" / "prompts.jsonl").read_text().splitlines()]
    assert len(rows) >= 200
    assert sum(row["right"]["colour and shape"] for row in rows) / len(rows) >= 0.8


def test_the_demo_is_small_enough_to_clone() -> None:
    files = [path for path in DEMO.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= COMMITTED_BYTES


def test_the_demo_model_holds_no_pickles() -> None:
    weights = [path for path in (DEMO / "model").rglob("*") if path.stat().st_size > 100_000 and path.is_file()]
    assert weights
    assert all(Path(path).suffix in (".safetensors", ".json") for path in weights)
