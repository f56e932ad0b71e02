from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.backends.kohya.checkout import look_at_checkout, pin_differences
from pipeline.backends.kohya.interpreter import ASK
from pipeline.errors import Problem
from pipeline.machine import host
from pipeline.records import Checkout

COMMIT = "48d368fa557731ad0488c07304dfeba8c07910eb"
OTHER = "1" * 40
PACKAGES = {
    "torch": "2.8.0",
    "torchvision": "0.23.0",
    "accelerate": "1.6.0",
    "transformers": "4.54.1",
    "diffusers": "0.32.1",
    "safetensors": "0.4.5",
}
ANSWER: dict[str, Any] = {
    "python": "3.10.6",
    "torch": "2.8.0+cu128",
    "platform": "cpu",
    "devices": [],
    "packages": PACKAGES,
    "broken": {},
}
CARDS = [
    {"name": "A card", "free_bytes": 24_000, "bf16": True},
    {"name": "An older card", "free_bytes": 11_000, "bf16": False},
]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """A /dev without any card."""
    (tmp_path / "dev").mkdir()
    return tmp_path / "dev"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What a checkout has, as far as it is looked at."""
    return files(
        tmp_path / "sd-scripts",
        {
            "train_network.py": "raise SystemExit('nothing of the checkout is run')",
            "library/train_util.py": "",
            "requirements.txt": "transformers==4.54.1\n",
            "README.md": "# Scripts\n\n- **Version 0.10.1 (2026-02-13):**\n- **Version 0.9.0:**\n",
        },
    )


def files(folder: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def program(path: Path, code: str) -> Path:
    """A stand-in for an interpreter: whatever it is asked, it does this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    return path


def answering(path: Path, answer: object = ANSWER, *, count_in: Path | None = None) -> Path:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    count = f"open({str(count_in)!r}, 'a').write('.')\n" if count_in else ""
    return program(path, f"{count}print('a library says hello')\nprint({text!r})")


def looked(root: Path, python: Path, dev: Path, *, seconds: float = 20) -> Checkout:
    checkout, problems = look_at_checkout(root, python, seconds=seconds, dev=dev)
    assert problems == ()
    assert checkout is not None
    return checkout


def refused(root: Path, python: Path, dev: Path, *, seconds: float = 20) -> Problem:
    checkout, (problem,) = look_at_checkout(root, python, seconds=seconds, dev=dev)
    assert checkout is None
    return problem


# --------------------------------------------------------------------------------------------------- what it answers


def test_a_checkout_and_its_environment_are_told(root: Path, tmp_path: Path, dev: Path) -> None:
    python = answering(tmp_path / "python")
    checkout = looked(root, python, dev)
    assert (checkout.root, checkout.python, checkout.version) == (root, python, "0.10.1")
    assert (checkout.platform, checkout.device_names, checkout.bf16) == ("cpu", (host.cpu_name(),), False)
    assert checkout.memory_bytes > 0
    assert (checkout.torch_version, checkout.python_version) == ("2.8.0+cu128", "3.10.6")
    assert checkout.packages == PACKAGES


def test_of_several_cards_the_weakest_counts(root: Path, tmp_path: Path, dev: Path) -> None:
    python = answering(tmp_path / "python", {**ANSWER, "platform": "rocm", "devices": CARDS})
    checkout = looked(root, python, dev)
    assert (checkout.platform, checkout.device_names) == ("rocm", ("A card", "An older card"))
    assert (checkout.memory_bytes, checkout.bf16) == (11_000, False)


def test_an_interpreter_is_found_as_a_shell_does(
    root: Path, tmp_path: Path, dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = answering(tmp_path / "bin" / "python-of-sd-scripts")
    monkeypatch.setenv("PATH", str(python.parent))
    assert looked(root, Path(python.name), dev).python == python


def test_relative_paths_are_made_absolute_and_no_link_is_followed(
    root: Path, tmp_path: Path, dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(tmp_path / "real")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "python").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    checkout = looked(Path("sd-scripts"), Path("venv/python"), dev)
    assert (checkout.root, checkout.python) == (root, tmp_path / "venv" / "python")


def test_a_broken_package_is_told_but_no_problem_by_itself(root: Path, tmp_path: Path, dev: Path) -> None:
    python = answering(tmp_path / "python", {**ANSWER, "broken": {"bitsandbytes": "OSError: no libcudart"}})
    checkout = looked(root, python, dev)
    assert checkout.broken == {"bitsandbytes": "OSError: no libcudart"}


# ---------------------------------------------------------------------------------------------------- wrong checkouts


def test_a_folder_that_is_not_there(root: Path, tmp_path: Path, dev: Path) -> None:
    problem = refused(tmp_path / "nowhere", answering(tmp_path / "python"), dev)
    assert (problem.key, problem.value) == ("backend.root", str(tmp_path / "nowhere"))
    assert problem.reason == "there is no such folder"
    assert "git clone https://github.com/kohya-ss/sd-scripts" in problem.fix


@pytest.mark.parametrize("name", ["library", "train_network.py"])
def test_a_path_inside_a_checkout_is_told_with_the_checkout(root: Path, tmp_path: Path, dev: Path, name: str) -> None:
    problem = refused(root / name, answering(tmp_path / "python"), dev)
    assert problem.fix == f"backend.root={root}"


def test_a_checkout_inside_another_program_is_found(root: Path, tmp_path: Path, dev: Path) -> None:
    problem = refused(tmp_path, answering(tmp_path / "python"), dev)
    assert "it has no train_network.py and no library/train_util.py" in problem.reason
    assert problem.fix == f"backend.root={root}"


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "~nobody-of-that-name/sd"])
def test_odd_paths_are_no_crash(root: Path, tmp_path: Path, dev: Path, path: str) -> None:
    checkout, problems = look_at_checkout(Path(path), Path(path), seconds=20, dev=dev)
    assert checkout is None
    assert [problem.key for problem in problems] == ["backend.root", "backend.python"]


# ------------------------------------------------------------------------------------------------- wrong interpreters


def test_an_interpreter_that_is_not_there(root: Path, tmp_path: Path, dev: Path) -> None:
    problem = refused(root, tmp_path / "nowhere" / "python", dev)
    assert (problem.key, problem.reason) == ("backend.python", "there is no such file")
    assert "VENV/bin/python" in problem.fix


def test_a_venv_whose_python_is_gone(root: Path, tmp_path: Path, dev: Path) -> None:
    (tmp_path / "python").symlink_to(tmp_path / "gone")
    assert f"is a link to {tmp_path / 'gone'}, which is not there" in refused(root, tmp_path / "python", dev).reason


@pytest.mark.parametrize("inside", ["bin/python", "venv/bin/python"])
def test_a_folder_for_an_interpreter(root: Path, tmp_path: Path, dev: Path, inside: str) -> None:
    python = answering(tmp_path / "there" / inside)
    problem = refused(root, tmp_path / "there", dev)
    assert (problem.reason, problem.fix) == ("is a folder, not an interpreter", f"backend.python={python}")


def test_a_file_that_may_not_be_run(root: Path, tmp_path: Path, dev: Path) -> None:
    (tmp_path / "python").touch(0o644)
    problem = refused(root, tmp_path / "python", dev)
    assert problem.fix == f"chmod +x {tmp_path / 'python'}"


def test_a_file_that_is_no_program(root: Path, tmp_path: Path, dev: Path) -> None:
    (tmp_path / "python").write_bytes(b"\x7fELF, but not really")
    (tmp_path / "python").chmod(0o755)
    assert "it can't be started: Exec format error" in refused(root, tmp_path / "python", dev).reason


def test_a_hang_ends_with_the_time_limit(root: Path, tmp_path: Path, dev: Path) -> None:
    began = time.monotonic()
    problem = refused(root, program(tmp_path / "python", "import time; time.sleep(60)"), dev, seconds=0.5)
    assert time.monotonic() - began < 10
    assert "it did not answer within 0.5 s (hardware.probe_seconds)" in problem.reason
    assert problem.fix == "hardware.probe_seconds=60"


def test_a_hang_takes_its_helpers_with_it(root: Path, tmp_path: Path, dev: Path) -> None:
    code = f"""
import subprocess, sys, time
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(tmp_path / "pid")!r}, "w").write(str(helper.pid))
time.sleep(60)"""
    refused(root, program(tmp_path / "python", code), dev, seconds=3)
    helper = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not psutil.pid_exists(helper) or psutil.Process(helper).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    pytest.fail("the helper is still running")


def test_a_crash_is_told_by_its_last_line(root: Path, tmp_path: Path, dev: Path) -> None:
    python = program(tmp_path / "python", "raise ImportError('libcudart.so.13: cannot open shared object file')")
    problem = refused(root, python, dev)
    assert "ImportError: libcudart.so.13: cannot open" in problem.reason
    assert f"{python} -c 'import torch' shows it whole" in problem.fix


def test_a_death_without_a_word_is_told(root: Path, tmp_path: Path, dev: Path) -> None:
    python = program(tmp_path / "python", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert "it ended with status -11" in refused(root, python, dev).reason


@pytest.mark.parametrize(
    "answer",
    [
        *("", "hello", "[]", "{}", "null", "\0\x07", "[" * 50_000),
        {**ANSWER, "platform": "tpu"},
        {**ANSWER, "platform": "cuda"},
        {**ANSWER, "packages": ["torch"]},
        {**ANSWER, "devices": 5},
    ],
)
def test_an_answer_that_makes_no_sense_is_told(root: Path, tmp_path: Path, dev: Path, answer: object) -> None:
    assert "its answer can't be read" in refused(root, answering(tmp_path / "python", answer), dev).reason


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_senseless_time_limit_is_told(root: Path, tmp_path: Path, dev: Path, seconds: float) -> None:
    problem = refused(root, answering(tmp_path / "python"), dev, seconds=seconds)
    assert "hardware.probe_seconds" in problem.reason


@pytest.mark.parametrize(
    "end", ["import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "import time; time.sleep(60)"]
)
def test_what_was_said_before_the_death_counts(root: Path, tmp_path: Path, dev: Path, end: str) -> None:
    """An import of bitsandbytes that kills or hangs the interpreter says nothing against the rest."""
    answer = json.dumps({**ANSWER, "broken": {"bitsandbytes": "never ended"}})
    python = program(tmp_path / "python", f"print({answer!r}, flush=True)\n{end}")
    assert looked(root, python, dev, seconds=3).broken == {"bitsandbytes": "never ended"}


def test_missing_packages_are_told_with_how_to_install_them(root: Path, tmp_path: Path, dev: Path) -> None:
    packages = {name: version for name, version in PACKAGES.items() if name not in ("torchvision", "diffusers")}
    python = answering(tmp_path / "python", {**ANSWER, "packages": packages})
    checkout, (problem,) = look_at_checkout(root, python, seconds=20, dev=dev)
    assert checkout is not None
    assert problem.reason.startswith("has no torchvision, diffusers")
    assert f"cd {root} && {python} -m pip install -r requirements.txt" in problem.fix
    assert "pip install torchvision" in problem.fix


def test_a_torchvision_for_another_torch_is_told(root: Path, tmp_path: Path, dev: Path) -> None:
    packages = {name: version for name, version in PACKAGES.items() if name != "torchvision"}
    broken = {"torchvision": "RuntimeError: operator torchvision::nms does not exist"}
    python = answering(tmp_path / "python", {**ANSWER, "packages": packages, "broken": broken})
    _, (problem,) = look_at_checkout(root, python, seconds=20, dev=dev)
    assert "beside torch 2.8.0+cu128: RuntimeError: operator torchvision::nms" in problem.reason


# ------------------------------------------------------------------------------------------------ commit and version


@pytest.mark.parametrize(
    ("git", "commit"),
    [
        ({"HEAD": f"{COMMIT}\n"}, COMMIT),
        ({"HEAD": "ref: refs/heads/main\n", "refs/heads/main": f"{COMMIT}\n"}, COMMIT),
        ({"HEAD": "ref: refs/heads/main\n", "packed-refs": f"# pack-refs\n{COMMIT} refs/heads/main\n"}, COMMIT),
        (
            {"HEAD": "ref: refs/heads/a/b\n", "packed-refs": f"{OTHER} refs/heads/a\n{COMMIT} refs/heads/a/b\n"},
            COMMIT,
        ),
        ({"HEAD": "ref: refs/heads/unborn\n"}, ""),
        ({"HEAD": "ref: ../../../etc/passwd\n"}, ""),
        ({"HEAD": "nonsense"}, ""),
        ({"config": ""}, ""),
    ],
)
def test_the_commit_is_read_without_git(
    root: Path, tmp_path: Path, dev: Path, git: dict[str, str], commit: str
) -> None:
    files(root / ".git", git)
    assert looked(root, answering(tmp_path / "python"), dev).commit == commit


def test_the_commit_of_a_submodule(root: Path, tmp_path: Path, dev: Path) -> None:
    files(tmp_path / "modules" / "sd", {"HEAD": COMMIT})
    (root / ".git").write_text("gitdir: ../modules/sd\n")
    assert looked(root, answering(tmp_path / "python"), dev).commit == COMMIT


def test_the_commit_of_a_worktree(root: Path, tmp_path: Path, dev: Path) -> None:
    clone = files(tmp_path / "clone" / ".git", {"refs/heads/mine": COMMIT, "packed-refs": f"{COMMIT} refs/tags/v1.2\n"})
    tree = files(clone / "worktrees" / "mine", {"HEAD": "ref: refs/heads/mine", "commondir": "../..\n"})
    (root / ".git").write_text(f"gitdir: {tree}\n")
    checkout = looked(root, answering(tmp_path / "python"), dev)
    assert (checkout.commit, checkout.version) == (COMMIT, "1.2")


@pytest.mark.slow
def test_git_s_own_clones_and_worktrees(root: Path, tmp_path: Path, dev: Path) -> None:
    def git(*arguments: str) -> str:
        options = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false", "-C", str(root))
        return subprocess.run(["git", *options, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    git("tag", "-a", "v0.11.2", "-m", "a tag")
    git("worktree", "add", "-q", str(tmp_path / "tree"))
    git("pack-refs", "--all")
    python = answering(tmp_path / "python")
    for folder in (root, tmp_path / "tree"):
        checkout = looked(folder, python, dev)
        assert (checkout.commit, checkout.version) == (git("rev-parse", "HEAD"), "0.11.2")


@pytest.mark.parametrize(
    ("texts", "version"),
    [
        ({"pyproject.toml": '[project]\nname = "sd-scripts"\nversion = "0.12.0"\n'}, "0.12.0"),
        ({"setup.py": 'setup(name="library", version="0.13.0")'}, "0.13.0"),
        ({"setup.py": 'setup(name = "library", packages = find_packages())'}, "0.10.1"),
        ({"pyproject.toml": "not toml ["}, "0.10.1"),
        ({"pyproject.toml": "project = 5"}, "0.10.1"),
        ({"README.md": "Nothing is said of it."}, ""),
        ({".git/HEAD": COMMIT, ".git/refs/tags/v0.9.9": COMMIT}, "0.9.9"),
        ({".git/HEAD": COMMIT, ".git/packed-refs": f"{OTHER} refs/tags/v0.8\n^{COMMIT}\n"}, "0.8"),
        ({".git/HEAD": COMMIT, ".git/packed-refs": f"{OTHER} refs/tags/v0.8\n"}, "0.10.1"),
    ],
)
def test_the_version(root: Path, tmp_path: Path, dev: Path, texts: dict[str, str], version: str) -> None:
    files(root, texts)
    assert looked(root, answering(tmp_path / "python"), dev).version == version


# -------------------------------------------------------------------------------------------------------------- pins


@pytest.fixture
def checkout(root: Path, tmp_path: Path, dev: Path) -> Checkout:
    return looked(root, answering(tmp_path / "python"), dev)


@pytest.mark.parametrize(
    ("line", "packages", "told"),
    [
        (
            "transformers==4.54.1",
            {"transformers": "4.57.0"},
            "transformers 4.57.0 is installed, and this checkout pins 4.54.1",
        ),
        ("transformers==4.54.1", {}, "transformers is not installed, and this checkout pins 4.54.1"),
        ("tensorboard", {}, "tensorboard is not installed, and this checkout asks for it"),
        ("diffusers[torch]==0.32.1  # why", {"diffusers": "0.33"}, "0.33 is installed"),
        ("Pytorch_Optimizer == 3.9.0", {"pytorch-optimizer": "3.8"}, "this checkout pins 3.9.0"),
        ("opencv-python==4.10.0.84", {"opencv-python-headless": "5.0"}, "opencv-python-headless 5.0 is installed"),
        ("torch==2.6.0+cu124", {"torch": "2.6.0+cpu"}, "2.6.0+cpu is installed"),
        ("einops==0.7.*", {"einops": "0.70"}, "this checkout pins 0.7.*"),
        ('triton==3.0; sys_platform == "linux"', {"triton": "3.1"}, "triton 3.1 is installed"),
    ],
)
def test_a_difference_from_a_pin(checkout: Checkout, line: str, packages: dict[str, str], told: str) -> None:
    (checkout.root / "requirements.txt").write_text(f"# pins\n{line}\n")
    (words,) = pin_differences(replace(checkout, packages=packages))
    assert told in words


@pytest.mark.parametrize(
    ("line", "packages"),
    [
        ("transformers==4.54.1", {"transformers": "4.54.1"}),
        ("einops==0.7", {"einops": "0.7.0"}),
        ("einops==0.7.*", {"einops": "0.7.5"}),
        ("torch==2.6.0", {"torch": "2.6.0+cu124"}),
        ("numpy>=1,<3", {"numpy": "2.0"}),
        ("tensorboard", {"tensorboard": "2.0"}),
        ('triton==3.0; sys_platform == "win32"', {}),
        ("-e .", {}),
        ("-r other.txt", {}),
        ("--extra-index-url https://example.org/simple", {}),
        ("git+https://example.org/a.git#egg=a", {}),
        ("a @ https://example.org/a.whl", {}),
        ("# torch==1.0", {}),
        ("", {}),
    ],
)
def test_no_difference(checkout: Checkout, line: str, packages: dict[str, str]) -> None:
    (checkout.root / "requirements.txt").write_text(f"{line}\n")
    assert pin_differences(replace(checkout, packages=packages)) == ()


def test_a_checkout_without_pins_has_no_differences(checkout: Checkout) -> None:
    (checkout.root / "requirements.txt").unlink()
    assert pin_differences(checkout) == ()


# ------------------------------------------------------------------------------------------------------ remembering


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A closed environment, as far as it is looked at."""
    return files(
        tmp_path / "venv",
        {
            "pyvenv.cfg": "include-system-site-packages = false\n",
            "lib/python3.10/site-packages/torch-2.8.0.dist-info/METADATA": "",
        },
    )


def asked_twice(root: Path, venv: Path, dev: Path, *, answer: object = ANSWER) -> int:
    """How often the interpreter was asked, for two looks."""
    python = answering(venv / "bin" / "python", answer, count_in=venv / "count")
    for _ in range(2):
        looked(root, python, dev)
    return len((venv / "count").read_text())


def test_without_a_card_the_answer_is_remembered(root: Path, venv: Path, dev: Path, cache_folder: Path) -> None:
    assert asked_twice(root, venv, dev) == 1
    assert [file.suffix for file in (cache_folder / "lora-easy-pipeline").iterdir()] == [".json"]


@pytest.mark.parametrize("node", ["nvidia0", "kfd", "dri/renderD128", "dxg"])
def test_with_a_device_node_it_is_asked_each_time(root: Path, venv: Path, dev: Path, node: str) -> None:
    files(dev, {node: ""})
    assert asked_twice(root, venv, dev) == 2


@pytest.mark.parametrize(
    "answer", [{**ANSWER, "platform": "cuda", "devices": CARDS}, {**ANSWER, "broken": {"bitsandbytes": "OSError"}}]
)
def test_cards_and_what_is_broken_are_not_remembered(root: Path, venv: Path, dev: Path, answer: object) -> None:
    assert asked_twice(root, venv, dev, answer=answer) == 2


@pytest.mark.parametrize(
    "texts",
    [
        {"pyvenv.cfg": "include-system-site-packages = true\n"},
        {"lib/python3.11/site-packages/x": ""},
    ],
)
def test_an_open_environment_is_asked_each_time(root: Path, venv: Path, dev: Path, texts: dict[str, str]) -> None:
    files(venv, texts)
    assert asked_twice(root, venv, dev) == 2


def test_an_interpreter_that_is_no_venv_s_is_asked_each_time(root: Path, tmp_path: Path, dev: Path) -> None:
    assert asked_twice(root, tmp_path / "usr", dev) == 2


def test_packages_from_elsewhere_are_not_remembered(
    root: Path, venv: Path, dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert asked_twice(root, venv, dev) == 2


def test_a_new_package_is_seen_at_once(root: Path, venv: Path, dev: Path) -> None:
    asked_twice(root, venv, dev)
    packages = venv / "lib/python3.10/site-packages"
    files(packages, {"bitsandbytes-0.46.dist-info/METADATA": ""})
    os.utime(packages, ns=(1, 1))  # a coarse clock may not have moved on
    assert asked_twice(root, venv, dev) == 2


def test_visible_devices_and_pins_are_part_of_the_question(
    root: Path, venv: Path, dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_twice(root, venv, dev)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert asked_twice(root, venv, dev) == 2
    files(root, {"requirements.txt": "einops==0.7.0\n"})
    assert asked_twice(root, venv, dev) == 3


def test_a_damaged_cache_is_asked_anew(root: Path, venv: Path, dev: Path, cache_folder: Path) -> None:
    asked_twice(root, venv, dev)
    (file,) = (cache_folder / "lora-easy-pipeline").glob("kohya-*.json")
    file.write_text('{"torch": ')
    assert asked_twice(root, venv, dev) == 2


def test_a_cache_that_can_not_be_written_is_no_error(root: Path, venv: Path, dev: Path, cache_folder: Path) -> None:
    cache_folder.write_text("a file is where the folder should be")
    assert asked_twice(root, venv, dev) == 2


# --------------------------------------------------------------------------------------------- what the child says


FALSE_TORCH = """
__version__ = "2.8.0+cu128"
class version: hip = None
class cuda: is_available = staticmethod(lambda: False)
"""


def asked(packages: Path, root: Path) -> list[dict[str, Any]]:
    """The lines that the question prints in an environment of these packages alone."""
    torch_ask = ASK.parents[2] / "machine" / "ask.py"
    command = [sys.executable, "-S", str(ASK), str(torch_ask), str(root), "torch", "bitsandbytes", "einops"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(packages)])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def metadata(name: str, version: str) -> dict[str, str]:
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    return {f"{name}-{version}.dist-info/METADATA": text}


def test_versions_and_imports(tmp_path: Path, root: Path) -> None:
    texts = {"torch.py": FALSE_TORCH, "bitsandbytes.py": "", "torchvision.py": "__version__ = '0.23'"}
    here = files(tmp_path / "here", {**texts, **metadata("torch", "2.8.0"), **metadata("einops", "0.7.0")})
    answer = asked(here, root)[-1]
    assert answer["packages"] == {"torch": "2.8.0", "einops": "0.7.0", "torchvision": "0.23", "bitsandbytes": ""}
    assert (answer["torch"], answer["platform"], answer["devices"]) == ("2.8.0+cu128", "cpu", [])
    assert answer["broken"] == {}


def test_a_broken_import_is_told_by_its_first_line(tmp_path: Path, root: Path) -> None:
    texts = {"torch.py": FALSE_TORCH, "bitsandbytes.py": "raise RuntimeError('no driver\\nand so on')"}
    here = files(tmp_path / "here", {**texts, **metadata("bitsandbytes", "0.46")})
    answer = asked(here, root)[-1]
    assert answer["broken"] == {"bitsandbytes": "RuntimeError: no driver"}
    assert "bitsandbytes" not in answer["packages"]


def test_a_package_that_misses_another_is_broken(tmp_path: Path, root: Path) -> None:
    here = files(tmp_path / "here", {"torch.py": FALSE_TORCH, "bitsandbytes.py": "import not_installed"})
    assert asked(here, root)[-1]["broken"] == {"bitsandbytes": "ModuleNotFoundError: No module named 'not_installed'"}


def test_the_last_line_says_which_import_was_the_end(tmp_path: Path, root: Path) -> None:
    texts = {"torch.py": FALSE_TORCH, "torchvision.py": "", "bitsandbytes.py": "import os; os._exit(3)"}
    answer = asked(files(tmp_path / "here", texts), root)[-1]
    assert list(answer["broken"]) == ["bitsandbytes"]
    assert "torchvision" in answer["packages"]


def test_no_torch_is_an_answer(tmp_path: Path, root: Path) -> None:
    assert asked(files(tmp_path / "here", {"x": ""}), root)[-1]["torch"] == ""


def test_nothing_of_the_checkout_is_imported(tmp_path: Path, root: Path) -> None:
    files(root, {"torch.py": "open('imported', 'w')", "bitsandbytes.py": "raise SystemExit"})
    here = files(tmp_path / "here", {"torch.py": FALSE_TORCH})
    answer = asked(here, root)[-1]
    assert (answer["torch"], answer["broken"]) == ("2.8.0+cu128", {})


# ------------------------------------------------------------------------------------------------------ the real one


@pytest.mark.slow
@pytest.mark.skipif(
    not (os.environ.get("SD_SCRIPTS_ROOT") and os.environ.get("SD_SCRIPTS_PYTHON")),
    reason="SD_SCRIPTS_ROOT and SD_SCRIPTS_PYTHON say where sd-scripts is",
)
def test_a_real_checkout() -> None:
    root, python = Path(os.environ["SD_SCRIPTS_ROOT"]), Path(os.environ["SD_SCRIPTS_PYTHON"])
    checkout, problems = look_at_checkout(root, python, seconds=120)
    assert problems == ()
    assert checkout is not None
    assert checkout.torch_version.startswith(checkout.packages["torch"].partition("+")[0])
    assert checkout.version
    assert {"accelerate", "transformers", "diffusers", "safetensors", "torchvision"} <= set(checkout.packages)
    assert all(" is " in words for words in pin_differences(checkout))
