"""Whether each optimizer works on this machine, and what its state takes: each takes the steps of its trial."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from pipeline.machine.findings import Finding
from pipeline.optimizer.catalog import Option, options
from pipeline.optimizer.choose import Trial
from pipeline.optimizer.trial import ADAMWS_RATE, NotInstalled, Steps, TrialError

REFERENCE = "adamw"
"""What savings are told against."""
SUBJECT = "optimizer"
AT_A_TIME = 2


def examine_optimizers(trial: Trial) -> Iterator[Finding]:
    """A finding for each that was tried, and one for all that are not installed. Where the reference does not work,
    which needs nothing but torch, the others are not tried: a driver that hangs would hang them all."""
    reference = options()[REFERENCE]
    first = _tried(reference, trial)
    if not isinstance(first, Steps):
        yield _failed(reference, f"{first}; the others were not tried")
        return
    yield Finding("ok", SUBJECT, f"{reference.name}: {_verdict(first, reference)}")
    yield from _others(tuple(option for option in options().values() if option is not reference), trial)


def _others(every: tuple[Option, ...], trial: Trial) -> Iterator[Finding]:
    """Two at a time: most of a trial is the import of torch, on one core."""
    missing: list[Option] = []
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for option, steps in zip(every, pool.map(lambda option: _tried(option, trial), every), strict=True):
            if isinstance(steps, Steps):
                yield Finding("ok", SUBJECT, f"{option.name}: {_verdict(steps, option)}")
            elif isinstance(steps, NotInstalled):
                missing.append(option)
            else:
                yield _failed(option, str(steps))
    yield from _not_installed(missing)


def _tried(option: Option, trial: Trial) -> Steps | TrialError:
    """What it did, or why it does not work."""
    try:
        return trial(option, ADAMWS_RATE)
    except TrialError as error:
        return error


def _verdict(steps: Steps, option: Option) -> str:
    known, reference = option.known, options()[REFERENCE].known
    assert known is not None and reference is not None, "every option of the group has its facts"
    measured, most = steps.state_bytes_per_parameter, reference.state_bytes_per_parameter
    saved = 1 - measured / most
    than = f", {saved:.0%} less than {REFERENCE}" if saved > 0.005 else ""
    alike = "" if known.twin is None or steps.cosine is None else f"; cosine {steps.cosine:.4f} with 32 bits"
    paged = "; pages nothing here" if known.paged and not steps.paged else ""
    return f"works, {measured:.2f} bytes a parameter{than}{alike}{paged}"


def _failed(option: Option, reason: str) -> Finding:
    """Without the reference nothing trains; every other has something to take its place."""
    if option.name == REFERENCE:
        return Finding("failure", SUBJECT, f"{option.name} does not work: {reason}", "python -c 'import torch'")
    return Finding(
        "warning",
        SUBJECT,
        f"{option.name} does not work: {reason}",
        f"optimizer={option.falls_back_to or REFERENCE}, in its place",
    )


def _not_installed(missing: list[Option]) -> Iterator[Finding]:
    """The rarer ones are an extra: that they are not there is no fault."""
    if missing:
        names = ", ".join(option.name for option in missing)
        packages = " ".join(sorted({option.distribution for option in missing}))
        yield Finding("ok", SUBJECT, f"not installed: {names}", f"pip install {packages}")
