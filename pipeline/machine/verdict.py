"""From what the machine has and what torch says it can drive: what to train on and how, and what does not fit.

A pure function: nothing here asks a machine, so that every card can be judged anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.errors import Problem
from pipeline.machine.architectures import (
    NEEDS_DRIVER,
    attention_kernels,
    install_command,
    intel_family_named,
    is_integrated,
    major,
)
from pipeline.machine.cards import PLATFORMS, Card, Found
from pipeline.machine.variables import (
    OVERRIDE,
    Situation,
    hidden_by,
    override_for,
    variables_for,
    version,
    without_integrated,
)
from pipeline.records import Answer, Device, Platform, Variable
from pipeline.settings import PlatformName

BUILD_OF: Mapping[Platform, str] = {"cuda": "cuda", "rocm": "hip", "xpu": "xpu"}
"""What torch calls the build that drives a platform."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the devices are used with. Precision follows from it (`pipeline.machine.precision`)."""

    platform: Platform
    devices: tuple[Device, ...] = ()
    architectures: tuple[str, ...] = ()
    attention: tuple[str, ...] = ()
    variables: tuple[Variable, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """What is judged."""

    found: Found
    answer: Answer
    wanted: PlatformName
    devices: tuple[Device, ...]
    architectures: tuple[str, ...]
    python: str
    """Begins the command that installs: empty for our own interpreter."""

    @property
    def torch(self) -> str:
        return f"torch {self.answer.torch}"

    def install(self, card: Card) -> str:
        """Empty where no wheel is known for the card."""
        command = install_command(card.arch, card.platform, card.driver)
        return f"{self.python} -m {command}" if self.python and command else command

    def problem(self, reason: str, fix: str) -> Problem:
        return Problem("hardware", self.wanted.value, reason, fix)


def judge(found: Found, answer: Answer, wanted: PlatformName, *, python: str = "") -> Verdict:
    """`python` is the interpreter that answered, where it is not our own."""
    if wanted is PlatformName.cpu:
        return Verdict("cpu")
    names = tuple(device.arch or intel_family_named(device.name) for device in answer.devices)
    places = without_integrated(answer, names, found.environment)
    case = Case(
        found=found,
        answer=answer,
        wanted=wanted,
        devices=tuple(answer.devices[place] for place in places),
        architectures=tuple(names[place] for place in places),
        python=python,
    )
    return Verdict(
        platform=answer.platform,
        devices=case.devices,
        architectures=case.architectures,
        attention=_attention(case),
        variables=variables_for(_situation(case)) if case.devices else (),
        warnings=tuple(text for warn in WARNINGS for text in warn(case)),
        problems=tuple(problem for check in CHECKS for problem in check(case)),
    )


def _attention(case: Case) -> tuple[str, ...]:
    """Before torch 2.9 nothing but plain products could train on Intel's cards."""
    if case.answer.platform == "xpu" and version(case.answer.torch) < (2, 9):
        return ("math",)
    return attention_kernels(case.architectures)


def _situation(case: Case) -> Situation:
    drivers = [card.driver for card in case.found.cards if card.vendor == "nvidia"]
    return Situation(
        answer=case.answer,
        devices=case.devices,
        architectures=case.architectures,
        driver=drivers[0] if drivers else "",
        wsl=case.found.wsl,
        user=case.found.environment,
    )


# -------------------------------------------------------------------------------------------------------------- checks


def _card_is_driven(case: Case) -> Iterator[Problem]:
    """A card that could be trained on is not passed over in silence, whatever else torch can drive."""
    card = _passed_over(case)
    if card is not None:
        install = case.install(card)
        reason = f"{card} found, but {case.torch} is installed, which {_why_not(case, card)}"
        yield case.problem(reason, _either(_mend(case, card, install), "hardware=cpu"))
    elif case.wanted.value not in ("auto", case.answer.platform):
        yield _not_here(case)


def _passed_over(case: Case) -> Card | None:
    """The best card of the wanted platform that torch does not drive; with hardware=auto only where it drives none."""
    cards = [card for card in case.found.usable if case.wanted.value in ("auto", card.platform)]
    if case.wanted is PlatformName.auto:
        cards = [card for card in cards if not card.integrated and case.install(card)]  # the rest is of no use
        if any(not is_integrated(name) for name in case.architectures):
            return None
    elif case.answer.platform == case.wanted.value:
        return None
    user = case.found.environment
    cards = [card for card in cards if card.vendor != "intel" or card.arch]  # the rest is too old for torch
    cards = [card for card in cards if not hidden_by(card.platform, user)]
    order = list(PLATFORMS)
    return min(cards, key=lambda card: (card.integrated, order.index(card.vendor)), default=None)


def _why_not(case: Case, card: Card) -> str:
    build = case.answer.builds.get(BUILD_OF[card.platform], "")
    if not build:
        return f"is not built for {card.platform}"
    needed = NEEDS_DRIVER.get(major(build), 0) if card.platform == "cuda" else 0
    if 0 < major(card.driver) < needed:
        return f"needs driver {needed} or newer for its CUDA {build}; here is {card.driver}"
    return f"is built for {card.platform} {build} and can't open it"


def _mend(case: Case, card: Card, install: str) -> str:
    """A torch that is built for the platform is not mended by the same one."""
    build = case.answer.builds.get(BUILD_OF[card.platform], "")
    too_old = card.platform == "cuda" and 0 < major(card.driver) < NEEDS_DRIVER.get(major(build), 0)
    if build and not too_old:
        return "python -m pipeline doctor, which says what is missing"
    return install or "no wheel of torch is known for it"


def _not_here(case: Case) -> Problem:
    """Says what is here. A wheel is named only where a card may be hidden from us: it helps nobody without one."""
    wanted, answer = case.wanted.value, case.answer
    names = ", ".join(device.name for device in answer.devices)
    drives = f"{answer.platform} ({names})" if answer.platform != "cpu" else "the CPU only"
    seen = ", ".join(f"{card}{'' if card.openable else ', which may not be opened'}" for card in case.found.cards)
    reason = f"{case.torch} can't drive {wanted} here; it can drive {drives}; found: {seen or 'no card'}"
    hidden = next((hidden_by(each, case.found.environment) for each in PLATFORMS.values() if each == wanted), "")
    if hidden:
        return case.problem(f"{reason}. {hidden} hides every card", f"unset {hidden}; or hardware=auto")
    ways = ["hardware=auto", f"hardware={answer.platform}"]
    if not case.found.usable:
        command = install_command("", wanted)
        ways.append(f"a torch for {wanted}: {f'{case.python} -m {command}' if case.python else command}")
    return case.problem(reason, ", or ".join(ways))


def _has_kernels(case: Case) -> Iterator[Problem]:
    """torch lists a card that it has no kernels for, and fails at the first of them."""
    for device, arch in zip(case.devices, case.architectures, strict=True):
        missing = KERNELS.get(case.answer.platform)
        if missing is not None and case.answer.arch_list and missing(case, arch):
            card = _card_of(case, device, arch)
            has = ", ".join(case.answer.arch_list)
            reason = f"{card} found, but {case.torch} has no kernels for {arch}, only for {has}"
            yield case.problem(reason, _either(case.install(card), "hardware=cpu"))
            return


def _no_cuda_kernels(case: Case, arch: str) -> bool:
    """Code runs on later cards of the same generation, and PTX on all later cards."""
    own = _capability(arch)
    compiled = [_capability(each) for each in case.answer.arch_list if re.fullmatch(r"sm_\d+", each)]
    portable = [_capability(each) for each in case.answer.arch_list if re.fullmatch(r"compute_\d+", each)]
    same = any(each[0] == own[0] and each <= own for each in compiled)
    return not (
        same or arch in {each.rstrip("af") for each in case.answer.arch_list} or any(p <= own for p in portable)
    )


def _capability(arch: str) -> tuple[int, int]:
    """sm_89 is (8, 9), sm_120 is (12, 0)."""
    return divmod(int(re.sub(r"\D", "", arch) or 0), 10)


def _no_rocm_kernels(case: Case, arch: str) -> bool:
    overridden = OVERRIDE in case.found.environment
    return arch not in case.answer.arch_list and not overridden and not override_for(case.architectures, case.answer)


KERNELS: Mapping[Platform, Callable[[Case, str], bool]] = {"cuda": _no_cuda_kernels, "rocm": _no_rocm_kernels}


def _card_of(case: Case, device: Device, arch: str) -> Card:
    """As the kernel knows it, by its driver; named as torch names it."""
    vendor = next(vendor for vendor, platform in PLATFORMS.items() if platform == case.answer.platform)
    driver = next((card.driver for card in case.found.cards if card.vendor == vendor), "")
    return Card(vendor, device.name, arch, driver=driver)


def _override_misleads(case: Case) -> Iterator[Problem]:
    """The kernel knows the true architecture; torch was told another one."""
    told = case.found.environment.get(OVERRIDE)
    for card in case.found.usable:
        if told and card.vendor == "amd" and case.answer.platform == "rocm" and card.arch in case.answer.arch_list:
            reason = f"{OVERRIDE}={told} is set, and {case.torch} has kernels for {card}: wrong ones would run, or hang"
            yield case.problem(reason, f"unset {OVERRIDE}")
            return


def _either(*fixes: str) -> str:
    return "; or ".join(fix for fix in fixes if fix)


CHECKS: tuple[Callable[[Case], Iterator[Problem]], ...] = (_card_is_driven, _has_kernels, _override_misleads)


# ------------------------------------------------------------------------------------------------------------ warnings


def _attention_takes_memory(case: Case) -> Iterator[str]:
    if _attention(case) == ("math",):
        yield (
            f"torch has no fast attention for {case.devices[0].name}: memory grows with the fourth power of a "
            "picture's side. A smaller train.resolution_px helps, or backend=kohya backend.args.mem_eff_attn=true"
        )


def _shares_memory(case: Case) -> Iterator[str]:
    for device, arch in zip(case.devices, case.architectures, strict=True):
        if is_integrated(arch) and case.answer.platform == "rocm" and device.total_bytes:
            size = f"{device.total_bytes / 2**30:.1f} GiB"
            yield f"{device.name} is part of the processor: torch sees only the {size} that the firmware gives it"


def _has_no_doubles(case: Case) -> Iterator[str]:
    if "alchemist" in case.architectures:
        yield f"{case.devices[0].name} has no float64, and takes at most 4 GiB in one piece"


WARNINGS: tuple[Callable[[Case], Iterator[str]], ...] = (_attention_takes_memory, _shares_memory, _has_no_doubles)
