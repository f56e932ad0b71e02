"""What was said of the base model against what its header shows."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import Problem
from pipeline.records import Checkpoint, Choice, Predicted
from pipeline.settings import Prediction, Settings


def header_problems(settings: Settings, checkpoint: Checkpoint) -> Iterator[Problem]:
    """A problem for a chosen model that the header speaks against, unless it is not to be trusted."""
    reason = contradiction(settings, checkpoint)
    if reason and settings.model.trust_header:
        claimed = settings.model.name
        fix = f"model={checkpoint.models[0]}, or model.trust_header=false to train it as {claimed} all the same"
        yield Problem("model", claimed, reason, fix)


def prediction_problems(settings: Settings, checkpoint: Checkpoint) -> Iterator[Problem]:
    """A problem for a prediction that nothing tells, and for one that the family can't have."""
    asked = settings.model.prediction
    if asked is Prediction.auto and predicts(settings, checkpoint) is None:
        reason = "nothing in the files tells if it predicts epsilon or v_prediction, and the wrong one trains noise"
        yield Problem("model.prediction", "auto", reason, "model.prediction=epsilon, or model.prediction=v_prediction")
    is_flow = checkpoint.prediction == "flow"
    if asked is not Prediction.auto and (asked is Prediction.flow) != is_flow:
        reason = f"{checkpoint.title} {'is a flow' if is_flow else 'is no flow'}"
        yield Problem("model.prediction", asked.value, reason, "model.prediction=auto")


def contradiction(settings: Settings, checkpoint: Checkpoint) -> str | None:
    """What the header says against the chosen model; None where it does not."""
    model = settings.model
    if checkpoint.refused:
        return f"{model.path} {checkpoint.refused}; {'; '.join(map(_shortened, checkpoint.evidence[:1]))}"
    if not checkpoint.models or model.name in checkpoint.models:
        return None
    told = [_shortened(said) for said in checkpoint.evidence if said.startswith(("family", "prediction"))]
    variant = f" ({checkpoint.variant})" if checkpoint.variant not in (None, "base") else ""
    is_not = f"is {checkpoint.title}{variant}, model={checkpoint.models[0]}, by its header, not {model.known.title}"
    return f"{model.path} {is_not}; {'; '.join(told)}"


def _shortened(evidence: str) -> str:
    """Two signs are enough to see what is meant; `detect` tells them all."""
    signs = evidence.split("; ")
    return "; ".join(signs[:2]) + ("; ..." if len(signs) > 2 else "")


def is_refuted(settings: Settings, checkpoint: Checkpoint) -> bool:
    """The model is not what it was claimed to be, so that what its claim needs and can do is beside the point."""
    return settings.model.trust_header and contradiction(settings, checkpoint) is not None


def predicts(settings: Settings, checkpoint: Checkpoint) -> Predicted | None:
    """What the files say; where they say nothing, what the chosen model does."""
    if checkpoint.prediction_sure:
        return checkpoint.prediction
    told: Predicted | None = settings.model.signature.get("predicts")
    return told or checkpoint.prediction


def model_choice(settings: Settings, checkpoint: Checkpoint) -> Choice | None:
    """Where the header left the choice between several names, or the claim is one that only the user can make."""
    name = settings.model.name
    if len(checkpoint.models) < 2 or name not in checkpoint.models:
        return None
    others = ", ".join(other for other in checkpoint.models if other != name)
    return Choice("model", name, f"{checkpoint.path.name} is {checkpoint.title}; {others} would fit its header as well")


def prediction_choice(settings: Settings, checkpoint: Checkpoint) -> Choice | None:
    """What is predicted and who says so, where that was left open."""
    if settings.model.prediction is not Prediction.auto:
        return None
    said = next((line for line in checkpoint.evidence if line.startswith("prediction: ")), "")
    reason = said.removeprefix("prediction: ") if checkpoint.prediction_sure else f"{settings.model.known.title} does"
    return Choice("model.prediction", predicts(settings, checkpoint), reason or "said by the model")
