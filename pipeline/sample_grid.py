"""The grid that compares samples of the same prompts and seeds, before the training and after."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FILE_NAME = "final_grid.png"
CELL_PX = 256


def write_grid(run_dir: Path, before: Sequence[Path], after: Sequence[Path], prompts: Sequence[str]) -> None:
    """Into the run directory, where every prompt has both pictures; nothing where there are none."""
    whole = len(before) == len(after) == len(prompts) > 0
    if whole and all(path.exists() for path in (*before, *after)):
        compare_grid({"before": before, "after": after}, prompts).save(run_dir / FILE_NAME)


def compare_grid(rows: Mapping[str, Sequence[Path]], prompts: Sequence[str]) -> Image.Image:
    """One row a label, one column a prompt, prompts written above."""
    header, cell = 60, CELL_PX
    font = ImageFont.load_default(15)
    margin = max(84, 20 + round(max(font.getlength(line) for label in rows for line in label.splitlines())))
    grid = Image.new("RGB", (margin + cell * len(prompts), header + cell * len(rows)), "white")
    pen = ImageDraw.Draw(grid)
    for column, prompt in enumerate(prompts):
        text = textwrap.shorten(prompt, 84, placeholder="...")
        pen.multiline_text((margin + column * cell + 6, 6), textwrap.fill(text, 33), font=font, fill="black")
    for row, (label, paths) in enumerate(rows.items()):
        pen.text((8, header + row * cell + cell // 2), label, font=font, fill="black", anchor="lm")
        for column, path in enumerate(paths):
            with Image.open(path) as picture:
                filled = picture.convert("RGB").resize((cell, cell), _filter(picture.width, cell))
            grid.paste(filled, (margin + column * cell, header + row * cell))
    return grid


def _filter(width_px: int, cell_px: int) -> Image.Resampling:
    """Small pictures keep their pixels."""
    return Image.Resampling.NEAREST if width_px * 2 <= cell_px else Image.Resampling.LANCZOS
