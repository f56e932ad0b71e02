"""A checkout of sd-scripts and its interpreter, looked at before anything is rendered for them.

The checkout is read as files, and nothing of it is run: its commit is what `.git` says, its version a tag of that
commit, else the newest in the change history of its README. That files were edited since the commit is not seen.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.backends.kohya.ask import MODULE
from pipeline.backends.kohya.interpreter import Environment, NoAnswerError, ask_environment
from pipeline.errors import Problem
from pipeline.machine import host
from pipeline.records import Checkout

MARKS = ("train_network.py", "library/train_util.py")
"""Files that every checkout of sd-scripts has."""
CLONE = "git clone https://github.com/kohya-ss/sd-scripts"
NEEDED = ("torch", "torchvision", "accelerate", "transformers", "diffusers", "safetensors")
"""No script starts without them."""
ASKED = (*NEEDED, "bitsandbytes", "lycoris-lora", "tensorboard", "xformers")
SAME_AS = {"opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")}
"""Packages that bring the same module."""
MAX_BYTES = 4_000_000
COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
README_VERSION = re.compile(r"\bversion\s+v?(\d+(?:\.\d+)+)", re.IGNORECASE)
SETUP_VERSION = re.compile(r"\bversion\s*=\s*[\"'](\d+(?:\.\d+)+)[\"']")
REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*([=<>!~].*)?")
"""Name, and what is asked of the version."""
INSIDE = ("bin/python", "venv/bin/python", ".venv/bin/python")
"""Where a folder that was given for an interpreter may have one."""


def look_at_checkout(
    root: Path, python: Path, *, seconds: float, modules: Collection[str] = (), dev: Path = Path("/dev")
) -> tuple[Checkout | None, tuple[Problem, ...]]:
    """The checkout, and what keeps it from being trained with; None where it or its interpreter can't be made out.
    `modules` are further ones that are asked for: `has_module` tells. Takes `seconds` at the most, and a moment for the
    files; never raises for what a user has on the disk."""
    folder, program = _absolute(root), _program(python)
    problems = [*_root_problems(root, folder), *_python_problems(python, program)]
    if problems:
        return None, tuple(problems)
    try:
        environment = ask_environment(
            program, folder, {*_names(folder), *map(_asked_module, modules)}, seconds=seconds, dev=dev
        )
    except NoAnswerError as error:
        fix = error.fix or f"{program} -c 'import torch' shows it whole; or backend.python=FILE, another interpreter"
        return None, (Problem("backend.python", str(python), f"can't be asked what it has: {error}", fix),)
    checkout = _checkout(folder, program, environment)
    return checkout, tuple(_package_problems(checkout))


def has_module(checkout: Checkout, name: str) -> bool:
    """Of a module that was asked for."""
    return _asked_module(name) in checkout.packages


def interpreter_in(root: Path) -> Path | None:
    """The one of an environment inside of the checkout."""
    return next((root / each for each in INSIDE[1:] if _has(root, each)), None)


def root_problems(root: Path) -> Iterator[Problem]:
    """What is wrong with a checkout's folder."""
    yield from _root_problems(root, _absolute(root))


def expanded(path: Path) -> Path:
    """~ as a shell has it; ~nobody stays as it is."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _asked_module(name: str) -> str:
    return f"{MODULE}{name}"


def pin_differences(checkout: Checkout) -> tuple[str, ...]:
    """In words, how what is installed differs from what the checkout's requirements.txt says."""
    found = (_difference(checkout, pin) for pin in _requirements(checkout.root))
    return tuple(words for words in found if words)


def _checkout(root: Path, python: Path, environment: Environment) -> Checkout:
    answer = environment.answer
    devices = answer.devices
    commit = _commit(root)
    return Checkout(
        root=root,
        python=python,
        commit=commit,
        version=_version(root, commit),
        platform=answer.platform,
        device_names=tuple(device.name for device in devices) or (host.cpu_name(),),
        memory_bytes=min((device.free_bytes for device in devices), default=host.available_memory_bytes()),
        bf16=bool(devices) and all(device.bf16 for device in devices),
        packages=environment.packages,
        broken=environment.broken,
        torch_version=answer.torch,
        python_version=environment.python,
        answer=answer,
    )


# --------------------------------------------------------------------------------------------------------- mistakes


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except (RuntimeError, OSError):  # ~nobody; a working directory that is gone
        return path


def _program(python: Path) -> Path:
    """A bare name is looked for as a shell does."""
    found = shutil.which(str(python)) if len(python.parts) == 1 and not _there(python) else None
    return _absolute(Path(found) if found else python)


def _root_problems(typed: Path, root: Path) -> Iterator[Problem]:
    if not _there(root):
        fix = f"backend.root=FOLDER, where sd-scripts is; to get it: {CLONE}"
        yield Problem("backend.root", str(typed), "there is no such folder", fix)
        return
    missing = [name for name in MARKS if not _has(root, name)]
    if missing:
        near = next((each for each in (root / "sd-scripts", *root.parents) if _is_checkout(each)), None)
        reason = f"is no checkout of sd-scripts: it has no {' and no '.join(missing)}"
        yield Problem(
            "backend.root",
            str(typed),
            reason if root.is_dir() else "is no folder",
            f"backend.root={near}" if near else f"backend.root=FOLDER, where sd-scripts is; to get it: {CLONE}",
        )


def _there(path: Path) -> bool:
    """Also false for a path that can't be one."""
    try:
        return path.exists()
    except OSError:
        return False


def _is_checkout(folder: Path) -> bool:
    return all(_has(folder, name) for name in MARKS)


def _has(folder: Path, name: str) -> bool:
    """Also false for what may not be looked into."""
    try:
        return (folder / name).is_file()
    except OSError:
        return False


def _python_problems(typed: Path, python: Path) -> Iterator[Problem]:
    wrong = _wrong_with(python)
    if wrong:
        fix = "backend.python=FILE, the interpreter that sd-scripts is installed for, such as VENV/bin/python"
        yield Problem("backend.python", str(typed), wrong[0], wrong[1] or fix)


def _wrong_with(python: Path) -> tuple[str, str] | None:
    """What is wrong, and what to type where that is known."""
    if not _there(python):
        gone = _target(python)
        link = f"is a link to {gone}, which is not there: its environment has to be made anew"
        return link if gone else "there is no such file", ""
    if python.is_dir():
        inside = next((python / each for each in INSIDE if _has(python, each)), None)
        return "is a folder, not an interpreter", f"backend.python={inside}" if inside else ""
    if not os.access(python, os.X_OK):
        return "may not be run: it is not executable", f"chmod +x {python}"
    return None


def _target(path: Path) -> str:
    """Of a link; empty for anything else."""
    try:
        return str(path.readlink())
    except (OSError, ValueError):
        return ""


def _package_problems(checkout: Checkout) -> Iterator[Problem]:
    """What no script starts without; the rest is told where a setting asks for it."""
    missing = [name for name in NEEDED if name not in checkout.packages and name not in checkout.broken]
    if missing:
        reason = f"has no {', '.join(missing)}, without which no script of sd-scripts starts"
        fix = f"cd {checkout.root} && {checkout.python} -m pip install -r requirements.txt"
        own = [name for name in missing if name in ("torch", "torchvision")]
        fix += f"; it does not name {' and '.join(own)}: pip install {' '.join(own)}" if own else ""
        yield Problem("backend.python", str(checkout.python), reason, fix)
    if "torchvision" in checkout.broken:
        reason = f"its torchvision can't be imported beside torch {checkout.torch_version}: "
        fix = f"{checkout.python} -m pip install --force-reinstall torchvision, of the build that fits torch"
        yield Problem("backend.python", str(checkout.python), reason + checkout.broken["torchvision"], fix)


# ------------------------------------------------------------------------------------------------ commit and version


def _commit(root: Path) -> str:
    """What HEAD points at, in a clone, a submodule or a worktree; empty where that can't be read."""
    git = _git_folder(root)
    if git is None:
        return ""
    head = _text(git / "HEAD").strip()
    if not head.startswith("ref:"):
        return head if COMMIT.fullmatch(head) else ""
    name = head.removeprefix("ref:").strip()
    for folder in (git, _common(git)):
        loose = _text(folder / name).strip() if ".." not in name else ""
        if COMMIT.fullmatch(loose):
            return loose
    return next((commit for commit, ref in _packed(git) if ref == name), "")


def _git_folder(root: Path) -> Path | None:
    """Where `.git` is a file, it says where the folder is."""
    git = root / ".git"
    if git.is_dir():
        return git
    text = _text(git)
    return root / text.removeprefix("gitdir:").strip() if text.startswith("gitdir:") else None


def _common(git: Path) -> Path:
    """A worktree has the branches of the clone it was made from."""
    return git / (_text(git / "commondir").strip() or ".")


def _packed(git: Path) -> Iterator[tuple[str, str]]:
    """(commit, ref); an annotated tag is named for its commit too, which stands in the line after it."""
    name = ""
    for line in _text(_common(git) / "packed-refs").splitlines():
        if line.startswith("^"):
            yield line[1:].strip(), name
        elif not line.startswith("#"):
            commit, _, name = line.strip().partition(" ")
            yield commit, name


def _tags(git: Path) -> Iterator[tuple[str, str]]:
    """(commit, name), of packed tags and of loose ones; of a loose annotated tag only its own object is told."""
    for commit, name in _packed(git):
        if name.startswith("refs/tags/"):
            yield commit, name.removeprefix("refs/tags/")
    for file in sorted((_common(git) / "refs" / "tags").glob("*")):
        yield _text(file).strip(), file.name


def _version(root: Path, commit: str) -> str:
    git = _git_folder(root)
    tags = [name for at, name in _tags(git) if at == commit] if git and commit else []
    if tags:
        return tags[-1].removeprefix("v")
    declared = _project_version(_text(root / "pyproject.toml")) or _first(SETUP_VERSION, _text(root / "setup.py"))
    return declared or _first(README_VERSION, _text(root / "README.md"))


def _project_version(text: str) -> str:
    try:
        version = tomllib.loads(text)["project"]["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return version if isinstance(version, str) else ""


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _text(path: Path) -> str:
    """Empty for what is not there, is no file, can't be read, or is too large to be what it is taken for."""
    try:
        return path.read_text(errors="replace") if path.is_file() and path.stat().st_size <= MAX_BYTES else ""
    except (OSError, ValueError):
        return ""


# ------------------------------------------------------------------------------------------------------------- pins


@dataclass(frozen=True, slots=True)
class _Requirement:
    name: str
    pinned: str
    """Empty where any version will do, or a range."""
    conditional: bool
    """For some platforms or versions of Python only."""


def _requirements(root: Path) -> Iterator[_Requirement]:
    """Lines with options (-e ., -r FILE, --index-url) and addresses are left out."""
    for line in _text(root / "requirements.txt").splitlines():
        plain, _, condition = line.partition("#")[0].partition(";")
        match = REQUIREMENT.fullmatch(plain.strip())
        if match:
            yield _Requirement(_canonical(match[1]), _pinned(match[2] or ""), bool(condition.strip()))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pinned(versions: str) -> str:
    exact = re.fullmatch(r"===?\s*([^\s,]+)", versions.strip())
    return exact[1] if exact else ""


def _names(root: Path) -> set[str]:
    """Packages whose versions are asked for."""
    required = {requirement.name for requirement in _requirements(root)}
    same = {other for name in required for other in SAME_AS.get(name, ())}
    return {*ASKED, *required, *same}


def _difference(checkout: Checkout, requirement: _Requirement) -> str:
    name, pinned = requirement.name, requirement.pinned
    here = next((each for each in (name, *SAME_AS.get(name, ())) if each in checkout.packages), None)
    wants = f"this checkout pins {pinned}" if pinned else "this checkout asks for it"
    if here is None:
        silent = requirement.conditional or name in checkout.broken
        return "" if silent else f"{name} is not installed, and {wants}"
    installed = checkout.packages[here]
    return "" if not pinned or _same(installed, pinned) else f"{here} {installed} is installed, and {wants}"


def _same(installed: str, pinned: str) -> bool:
    """1.0 is 1.0.0, a build (+cu128) is not asked for unless it is pinned, and 1.* is any 1."""
    if pinned.endswith(".*"):
        return f"{installed}.".startswith(pinned[:-1])
    if "+" not in pinned:
        installed = installed.partition("+")[0]
    return _without_zeros(installed) == _without_zeros(pinned)


def _without_zeros(version: str) -> str:
    return re.sub(r"(\.0)+$", "", version.lower().removeprefix("v"))
