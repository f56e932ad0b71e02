"""The ways of sd-scripts to die, by what it printed last. Messages are those of commit 48d368f.

What it prints is English, then ` / `, then the same in Japanese: the first is shown.
"""

from __future__ import annotations

import re
import signal
from itertools import pairwise

from pipeline.deaths import LESS_MEMORY, SIGNS, Sign, make_sign, recognize
from pipeline.errors import Cause

INTO_ITS_ENVIRONMENT = "<backend.python> -m pip install"
_IN_SHORT = r"(?P<words>[^\n]+?)(?= / |\n|\Z)"

LOGGED_SIGNS: tuple[Sign, ...] = (
    make_sign(
        r"No data found\. Please verify",
        Cause.BAD_FILE,
        "sd-scripts finds no picture to train on",
        "data.dir=<a folder with pictures>; `python run.py until=detect` with the same settings lists what is found",
    ),
    make_sign(
        r"model is not found as a file or in Hugging Face[^\n]*?: (?P<path>[^\s:]+)\s"
        r"|The provided pretrained_model_name_or_path \"(?P<name>[^\"]+)\" is neither a valid local path",
        Cause.BAD_FILE,
        "{path}{name} is neither a file nor a folder of a model",
        "model.path=<the file, or the folder with model_index.json>",
    ),
)
"""Lines that it logs before it gives up."""

RAISED_SIGNS: tuple[Sign, ...] = (
    make_sign(
        r"voluptuous\.error\.\w+: (?P<words>[^\n]+)",
        Cause.UNKNOWN,
        "sd-scripts refuses its dataset config: {words}",
        "the data.* or train.* setting that job/dataset.toml has under that key",
    ),
    make_sign(
        r"size mismatch for (?P<name>[\w.]+)",
        Cause.BAD_FILE,
        "the weights do not fit the model: another size at {name}",
        "python -m pipeline detect <model.path> says of which family it is; model=auto trusts that;"
        " resume=never where a state is of another rank",
    ),
    make_sign(
        r"Error\(s\) in loading state_dict for (?P<model>\w+)",
        Cause.BAD_FILE,
        "the weights do not fit the model: {model} has other parts",
        "python -m pipeline detect <model.path> says of which family it is; model=auto trusts that",
    ),
    make_sign(
        r"Can't load (?P<what>tokenizer|the model|the configuration of|config) ?(for)? ?'(?P<name>[^']+)'"
        r"|OSError: (?P<host>We couldn't connect to 'https://huggingface\.co')"
        r"|(?P<cache>LocalEntryNotFoundError|OfflineModeIsEnabled)"
        r"|(?P<net>(Max retries exceeded|ConnectError|Name or service not known)[^\n]*huggingface)"
        r"|vocab_file(?P<none>[\s\S]*TypeError: expected str, bytes or os\.PathLike object, not NoneType)",
        Cause.BAD_FILE,
        "a tokenizer or text encoder is not here, and its hub can't be reached",
        "backend.args.tokenizer_cache_dir=<a folder that holds it under its name, with _ for />, or connect once",
    ),
    make_sign(
        r"NaN detected in (?P<what>latents|text encoder outputs): (?P<path>[^\n]+?)\s*(\n|\Z)",
        Cause.NOT_FINITE,
        "the {what} of {path} are not finite numbers",
        "backend.args.no_half_vae=true where the script has it, hardware.precision=bf16 or fp32; a look at the picture",
    ),
    make_sign(
        r"No bitsandbytes|No (?P<name>\w+8bit)\. The version of bitsandbytes|libbitsandbytes\w*\.so"
        r"|bitsandbytes[^\n]*(compiled without|not compiled with|CUDA setup failed)|CUDA Setup failed despite",
        Cause.MISSING_MODULE,
        "bitsandbytes is missing there, or was built for another CUDA",
        f"{INTO_ITS_ENVIRONMENT} -U bitsandbytes, or optimizer=adamw",
    ),
    make_sign(
        r"Torch not compiled with CUDA enabled|no kernel image is available for execution"
        r"|CUDA driver version is insufficient|NVIDIA driver on your system is too old|Found no NVIDIA driver",
        Cause.MISSING_MODULE,
        "the torch of backend.python does not fit this machine's device or driver",
        "install the torch for this device there, or hardware=cpu",
    ),
    make_sign(
        r"impossible to decompose (?P<width>\d+) with factor (?P<rank>\d+) under BOFT",
        Cause.UNKNOWN,
        "BOFT can't cut a layer of width {width} into blocks of network.rank={rank}",
        "network.rank=16",
    ),
    make_sign(
        r"duplicated lora name: (?P<name>\w+)",
        Cause.UNKNOWN,
        "this preset of LyCORIS names a layer twice: {name}",
        "leave backend.network_args.preset out: then the layers are named here",
    ),
    make_sign(
        r"No module named '(lycoris)[\w.]*'",
        Cause.MISSING_MODULE,
        "the environment of sd-scripts misses LyCORIS",
        f"{INTO_ITS_ENVIRONMENT} lycoris-lora, or network=lora",
    ),
    make_sign(
        r"No module named '?(library|networks)\b",
        Cause.MISSING_MODULE,
        "the checkout of sd-scripts is not complete",
        "backend.root=<a whole checkout of kohya-ss/sd-scripts>",
    ),
    make_sign(
        r"No module named '?(?P<module>[\w.]+)'?|ImportError: No (?P<other>\w+) / ",
        Cause.MISSING_MODULE,
        "the environment of sd-scripts misses a Python module: {module}{other}",
        f"{INTO_ITS_ENVIRONMENT} {{module}}{{other}}",
    ),
    make_sign(
        r"does not require `num_warmup_steps`",
        Cause.UNKNOWN,
        "sd-scripts has no warm-up with this scheduler",
        "train.warmup_fraction=0",
    ),
    make_sign(
        r"(?P<words>(when caching (text encoder|latents)|network for Text Encoder cannot be trained with caching)"
        r"[^\n/]*?)\s*(?= / |\n|\Z)",
        Cause.UNKNOWN,
        "sd-scripts refuses to cache here: {words}",
        "mode.text_encoder_lr=0 train.shuffle_tags=false train.caption_dropout=0, or no such cache",
    ),
    make_sign(
        r"(?P<words>(full_fp16|full_bf16|fp8_base) requires mixed precision[^\n/]*?)\s*(?= / |\n|\Z)",
        Cause.UNKNOWN,
        "sd-scripts refuses this precision: {words}",
        "hardware.precision=fp16 or bf16",
    ),
    make_sign(
        r"(?P<words>fused_backward_pass (currently only|does not)[^\n/]*?)\s*(?= / |\n|\Z)",
        Cause.UNKNOWN,
        "sd-scripts refuses: {words}",
        "optimizer=adafactor train.accumulation_steps=1 train.max_grad_norm=0",
    ),
    make_sign(
        r"max_train_steps should be greater than initial step",
        Cause.UNKNOWN,
        "the state that it goes on from has all the steps already",
        "a larger train.max_steps, or resume=never",
    ),
)
"""Looked for in the traceback that ended it."""

LAST_SIGNS: tuple[Sign, ...] = (
    make_sign(
        r"FileNotFoundError: [^\n]*No such file or directory: [\"']?(?P<path>[^\"'\n]+)",
        Cause.BAD_FILE,
        "{path} is not there",
        "the setting that names it",
    ),
    make_sign(
        r"error: (?P<words>(unrecognized arguments|argument |the following arguments)[^\n]+)",
        Cause.UNKNOWN,
        "the script does not take its command line: {words}",
        "python -m pipeline audit shows what this checkout's scripts take",
    ),
    make_sign(
        rf"\n(AssertionError|ValueError|NotImplementedError|AttributeError): {_IN_SHORT}",
        Cause.UNKNOWN,
        "sd-scripts stops with: {words}",
        "the setting that this speaks of; the log says more",
    ),
    make_sign(
        rf"\n(?P<kind>(?!subprocess\.)[A-Za-z_][\w.]*(Error|Exception|Interrupt)): {_IN_SHORT}",
        Cause.UNKNOWN,
        "sd-scripts stops with {kind}: {words}",
        "the log says more",
    ),
)
"""Looked for when nothing else tells."""

WHERE_MEMORY_ENDED: dict[str, str] = {
    "drawing samples": "sample.every_steps=0, fewer sample.prompts, or backend.args.vae_batch_size=1",
    "caching latents": "backend.args.vae_batch_size=1, backend.args.lowram=true, or a smaller train.resolution_px",
    "caching text encoder outputs": "backend.args.text_encoder_batch_size=1 or backend.args.lowram=true",
    "loading the model": "backend.args.lowram=true, or a base model in a smaller type (fp8, fp16)",
    "saving": LESS_MEMORY,
}
"""What helps, by what it was busy with."""


TRACEBACK = re.compile(r"^.*Traceback \(most recent call last\):$", re.MULTILINE)
CHAINED = re.compile(r"During handling of the above exception|was the direct cause of the following exception")
LAUNCHER = re.compile(r"CalledProcessError: Command |ChildFailedError")
LINES_BEFORE_SIGNAL = 15


def explain(code: int, tail: str, phase: str | None) -> tuple[Cause, str, str]:
    """Cause, headline and fix. `code` is the command's (negative: a signal), `tail` the end of its output."""
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return next((sign.cause, sign.headline, sign.fix) for sign in SIGNS if sign.cause is Cause.KILLED_BY_SYSTEM)
    words = last_words(tail)
    found = recognize(tail, LOGGED_SIGNS) or recognize(words, RAISED_SIGNS) or recognize(words, SIGNS)
    if found is None:
        return recognize(words, LAST_SIGNS) or (Cause.UNKNOWN, _ended(code, tail), "the log says more")
    cause, headline, _ = found
    if cause is Cause.OUT_OF_MEMORY and phase in WHERE_MEMORY_ENDED:
        return cause, f"{headline} for {phase}", WHERE_MEMORY_ENDED[phase]
    return found


def last_words(tail: str) -> str:
    """The traceback that ended it, with those that led to it and what came after. What it only mentioned on its way, or
    caught, explains nothing; neither does the launcher's own traceback, unless it names a signal."""
    starts = [found.start() for found in TRACEBACK.finditer(tail)]
    blocks = [tail[begin:end] for begin, end in pairwise([*starts, len(tail)])]
    while blocks and LAUNCHER.search(blocks[-1]):
        if "died with <Signals." in blocks.pop() or not blocks:
            begin = starts[len(blocks)]
            before = tail[:begin].splitlines()[-LINES_BEFORE_SIGNAL:]
            return "\n".join([*before, tail[begin:]])
    if not blocks:
        return "\n".join(tail.splitlines()[-LINES_BEFORE_SIGNAL:])
    first = len(blocks) - 1
    while first > 0 and CHAINED.search(blocks[first - 1]):
        first -= 1
    return tail[starts[first] :]


def _ended(code: int, tail: str) -> str:
    how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
    last = next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "")
    return f"sd-scripts ended with {how}" + (f": {last}" if last else ", without a word")
