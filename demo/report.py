"""Asks the demo model for 240 pictures, judges them by rules, and writes the report.

python -m demo.report [--model demo/model] [--out demo/report]
"""

from __future__ import annotations

import argparse
import json
import logging
import textwrap
from dataclasses import asdict
from pathlib import Path
from random import Random

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

from demo.judge import Seen, look
from demo.train_model import GUIDANCE, pictures_of, to_pixels
from demo.world import COUNTS, Scene, all_scenes, draw, held_out

PROMPTS = 240
SHOWN = 24
SEED = 7_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("demo/model"))
    parser.add_argument("--out", type=Path, default=Path("demo/report"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    parts = load(options.model)
    scenes = choose_scenes(Random(6))
    pictures = list(pictures_of(parts, [scene.caption for scene in scenes], SEED))
    seen = [look(picture) for picture in pictures]
    rebuilt = [look(picture) for picture in rebuild(parts, [draw(scene, Random(i)) for i, scene in enumerate(scenes)])]
    write_report(options.out, scenes, seen, rebuilt)
    contact_sheet(scenes[:SHOWN], pictures[:SHOWN]).save(options.out / "pictures.png", optimize=True)
    print((options.out / "README.md").read_text(encoding="utf-8"))


def load(folder: Path) -> StableDiffusionPipeline:
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    parts = StableDiffusionPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    parts.set_progress_bar_config(disable=True)
    return parts


def choose_scenes(rng: Random) -> list[Scene]:
    """Half of them scenes that the model never saw while it was trained."""
    known, unseen = [s for s in all_scenes() if not held_out(s)], [s for s in all_scenes() if held_out(s)]
    scenes = rng.sample(known, PROMPTS // 2) + rng.sample(unseen, PROMPTS // 2)
    rng.shuffle(scenes)
    return scenes


@torch.no_grad()
def rebuild(parts: StableDiffusionPipeline, pictures: list[Image.Image]) -> list[Image.Image]:
    """Through the autoencoder and back: what the judge makes of the best that the model could draw."""
    rebuilt = []
    for picture in pictures:
        drawn = parts.vae.decode(parts.vae.encode(to_pixels([picture])).latent_dist.mean).sample[0]
        levels = ((drawn / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        rebuilt.append(Image.fromarray(levels))
    return rebuilt


def right(scene: Scene, seen: Seen) -> dict[str, bool]:
    return {
        "colour and shape": (seen.colour, seen.shape) == (scene.colour, scene.shape),
        "colour": seen.colour == scene.colour,
        "shape": seen.shape == scene.shape,
        "count": seen.count == COUNTS[scene.count],
        "background": seen.background == scene.background,
    }


def share(scenes: list[Scene], seen: list[Seen], figure: str) -> float:
    return sum(right(scene, what)[figure] for scene, what in zip(scenes, seen, strict=True)) / len(scenes)


def write_report(folder: Path, scenes: list[Scene], seen: list[Seen], rebuilt: list[Seen]) -> None:
    figures = list(right(scenes[0], seen[0]))
    unseen = [(scene, what) for scene, what in zip(scenes, seen, strict=True) if held_out(scene)]
    columns = {
        "all prompts": (scenes, seen),
        "prompts never trained on": ([pair[0] for pair in unseen], [pair[1] for pair in unseen]),
        "real pictures through the autoencoder": (scenes, rebuilt),
    }
    lines = [
        "# What the demo model draws",
        "",
        f"{len(scenes)} prompts, one picture each (seed {SEED} + number, 25 steps, guidance {GUIDANCE}), judged by",
        "rules on the pixels (`demo/judge.py`). Made by `python -m demo.report`. Each row: how often that is right.",
        "",
        "| right | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for figure in figures:
        shares = [f"{share(*column, figure):.1%}" for column in columns.values()]
        lines.append(f"| {figure} | " + " | ".join(shares) + " |")
    lines += ["", "The last column is what the judge makes of drawings that are right by construction.", ""]
    lines += ["![The first pictures with their prompts](pictures.png)", ""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
    rows = [
        {"prompt": scene.caption, "seed": SEED + i, "seen": asdict(what), "right": right(scene, what)}
        for i, (scene, what) in enumerate(zip(scenes, seen, strict=True))
    ]
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")


def contact_sheet(scenes: list[Scene], pictures: list[Image.Image]) -> Image.Image:
    columns, cell, text = 6, 160, 54
    font = ImageFont.load_default(12)
    sheet = Image.new("RGB", (columns * cell, -(-len(scenes) // columns) * (cell + text)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (scene, picture) in enumerate(zip(scenes, pictures, strict=True)):
        x, y = i % columns * cell, i // columns * (cell + text)
        pen.multiline_text((x + 4, y + 2), textwrap.fill(scene.caption, 25), "black", font, spacing=2)
        sheet.paste(picture.resize((cell - 8, cell - 8), Image.Resampling.NEAREST), (x + 4, y + text - 4))
    return sheet


if __name__ == "__main__":
    main()
