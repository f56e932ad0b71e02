"""What the model predicts, and what the script is told of it."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules.reading import is_on
from pipeline.backends.kohya.rules.wording import problem_of, switched_off
from pipeline.backends.kohya.scripts import EVERY, FLOW, NOISE
from pipeline.errors import Problem


def kind_of_prediction(asked: Asked) -> Iterator[Problem]:
    """A model that the script can't train: it would learn another prediction than its own."""
    flow = asked.predicts == "flow"
    if asked.parser.script in EVERY and flow != (asked.parser.script in FLOW):
        trains = "noise or v" if flow else "flows"
        reason = f"{asked.parser.script} trains models that predict {trains}, and this one predicts {asked.predicts}"
        given = asked.settings.model.prediction.value
        fix = "backend=native" if given == "auto" else "model.prediction=auto"
        yield Problem("model.prediction", given, reason, fix)


def v_parameterization(asked: Asked) -> Iterator[Problem]:
    """The script does not look into the model: it believes this flag."""
    means_v = asked.predicts == "v_prediction"
    if asked.parser.script not in NOISE or asked.predicts == "flow" or is_on(asked, "v_parameterization") == means_v:
        return
    reason = f"the model predicts {'v' if means_v else 'noise (epsilon)'}, and would be taught the other"
    fix = f"model.prediction={asked.predicts}"
    yield problem_of(asked, "v_parameterization", reason, fix)


def terminal_snr(asked: Asked) -> Iterator[Problem]:
    """At a signal-to-noise ratio of 0 the noise is all there is: predicting it teaches nothing."""
    if asked.parser.script in NOISE and is_on(asked, "zero_terminal_snr") and not is_on(asked, "v_parameterization"):
        reason = "without v_parameterization the last timesteps teach nothing (sd-scripts warns of it)"
        yield problem_of(asked, "zero_terminal_snr", reason, switched_off(asked, "zero_terminal_snr"))
