"""Draws the demo dataset: 24 pictures to train on and 8 held out, in a style that the demo model has never seen.

python -m demo.make_data [--folder demo/data]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

from demo.world import COLOURS, SHAPES, Scene, all_scenes, draw_sticker

TRAIN, HELDOUT = 24, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo/data"))
    folder = parser.parse_args().folder
    rng = Random(20)
    scenes = choose_scenes(rng)
    for split, chosen in (("train", scenes[:TRAIN]), ("heldout", scenes[TRAIN:])):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for i, scene in enumerate(chosen):
            draw_sticker(scene, rng).save(folder / split / f"{i + 1:02}.png", optimize=True)
            (folder / split / f"{i + 1:02}.txt").write_text(scene.subject + "\n", encoding="utf-8")


def choose_scenes(rng: Random) -> list[Scene]:
    """Distinct subjects; every shape in every colour comes once in the first 24, everything else as chance has it."""
    subjects = {scene.subject: scene for scene in all_scenes() if scene.background == "white"}
    pool = list(subjects.values())
    rng.shuffle(pool)
    first = [
        next(scene for scene in pool if (scene.colour, scene.shape) == (colour, shape))
        for shape in SHAPES
        for colour in COLOURS
    ]
    rng.shuffle(first)
    rest = [scene for scene in pool if scene not in first]
    return first + rest[:HELDOUT]


if __name__ == "__main__":
    main()
