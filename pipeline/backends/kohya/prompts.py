"""The file of sample prompts: a list of objects, which no sign in a prompt can break (a line of text would be cut at
` --`)."""

from __future__ import annotations

import json

from pipeline.records import Plan
from pipeline.settings import Settings


def prompts_text(plan: Plan) -> str:
    """Seeds count up from `sample.seed`, so that two runs draw the same noise."""
    sample, side = plan.settings.sample, plan.settings.train.resolution_px
    prompts = [
        {
            "prompt": prompt,
            **({"negative_prompt": sample.negative_prompt} if sample.negative_prompt else {}),
            "width": side,
            "height": side,
            "sample_steps": sample.num_inference_steps,
            **_guidance(plan.settings),
            "seed": sample.seed + index,
        }
        for index, prompt in enumerate(plan.sample_prompts)
    ]
    return json.dumps(prompts, indent=1, ensure_ascii=False) + "\n"


def _guidance(settings: Settings) -> dict[str, float]:
    """`scale` is that of a second pass without the prompt. Of FLUX.1, `guidance_scale` is a number that the model
    takes, and Chroma, which takes none, wants it to be 0 (library/flux_train_utils.py)."""
    scale, distilled = float(settings.sample.guidance_scale), settings.model.known.kohya.arguments.get("guidance_scale")
    if distilled:
        return {"guidance_scale": scale}
    return {"scale": scale} | ({} if distilled is None else {"guidance_scale": 0.0})
