"""Our network settings as sd-scripts wants them: one of its modules, or LyCORIS, and what travels in `network_args`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.backends.kohya.lycoris_arguments import OF_THE_NETWORK, Lycoris
from pipeline.errors import Problem, did_you_mean
from pipeline.settings import Algorithm, KohyaBackend, Network, Settings

LYCORIS = "lycoris.kohya"
WITH_CONVOLUTIONS = "networks.lora"
PRESET = "lycoris.toml"
"""The file of `lycoris_preset`, beside train.toml."""
DROPPING = {"rank_dropout", "module_dropout"}
"""What sd-scripts' own modules and LyCORIS have in common."""
THEIR_ALGORITHMS: Mapping[Algorithm, tuple[str, Mapping[str, Any]]] = {
    Algorithm.dora: ("locon", {"dora_wd": True}),
    Algorithm.diag_oft: ("diag-oft", {}),
}
"""What LyCORIS calls them, and what else it must be told; else it has our name."""
THEIR_ARGUMENTS = {"weight_decompose": "dora_wd", "wd_on_out": "wd_on_output"}
"""`network.args` that `lycoris.kohya` has another name for."""
ATTENTION_BLOCKS = ("Transformer2DModel",)
CONVOLUTION_BLOCKS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
TEXT_BLOCKS = ("CLIPAttention", "CLIPSdpaAttention", "CLIPMLP")
"""What networks/lora.py adapts."""
WITHOUT_RANK = {Algorithm.full, Algorithm.ia3}
"""They have neither rank nor alpha: what would be written there has no effect."""
OUR_OWN = {"algo": "network.algo", "conv_dim": "network.conv_rank", "conv_alpha": "network.conv_alpha"}
"""What only settings write into `network_args`."""
TRUE_ONLY = {"decompose_both"}
"""LyCORIS takes any text as true there, 'False' too (create_network, lycoris/kohya.py)."""


@dataclass(frozen=True, slots=True)
class NetworkPart:
    """An adapter in sd-scripts' words."""

    module: str
    dim: int | None
    """None: the algorithm has none."""
    alpha: float | None
    args: dict[str, Any]

    def lines(self) -> list[str]:
        """`network_args`: `k=v` each, read back by `str.split("=", 1)`."""
        return [f"{name}={_text(value)}" for name, value in self.args.items()]


def network_part(settings: Settings, folder: Path = Path()) -> NetworkPart | None:
    """None for a whole checkpoint. The model must be one that sd-scripts trains adapters of. `folder` is where the
    job's files are."""
    network, backend = settings.network, settings.backend
    module = settings.model.known.kohya.lora_module
    if network is None or module is None:
        return None
    by_itself = _by_sd_scripts(network, module)
    own = dict(_own_args(network)) if by_itself else dict(_lycoris_args(network, _preset(settings, folder)))
    module = module if by_itself else LYCORIS
    has_rank = network.algo not in WITHOUT_RANK
    return NetworkPart(
        module=module,
        dim=network.rank if has_rank else None,
        alpha=float(network.alpha) if has_rank else None,
        args=own | _passed(backend),
    )


def lycoris_preset(settings: Settings) -> dict[str, Any] | None:
    """Which layers LyCORIS adapts: those that networks.lora does, and our own trainer. None where LyCORIS is not asked,
    or has a preset of its own for it.

    Its own preset `full` can't be had for a UNet: LyCORIS 4 names the time embedding twice there and dies of it
    ("duplicated lora name", tried with 4.1.3 on Stable Diffusion 1.5).
    """
    network, part = settings.network, network_part(settings)
    if network is None or part is None or part.args.get("preset") != PRESET:
        return None
    return {
        "enable_conv": network.conv_rank > 0,
        "unet_target_module": [*ATTENTION_BLOCKS, *(CONVOLUTION_BLOCKS if network.conv_rank else ())],
        "unet_target_name": [],
        "text_encoder_target_module": list(TEXT_BLOCKS),
        "text_encoder_target_name": [],
    }


def _by_sd_scripts(network: Network, module: str) -> bool:
    """LoRA everywhere; on convolutions too where networks.lora does the same as LyCORIS' LoCon, and is there anyway."""
    plain = network.algo is Algorithm.locon and module == WITH_CONVOLUTIONS and network.args.keys() <= DROPPING
    return network.algo is Algorithm.lora or plain


def _own_args(network: Network) -> Iterator[tuple[str, Any]]:
    if network.conv_rank:
        yield "conv_dim", network.conv_rank
        yield "conv_alpha", float(network.conv_alpha)
    yield from network.args.items()


def _preset(settings: Settings, folder: Path) -> str:
    """A file of ours for UNets, one of LyCORIS' own for the others. Its `ia3` matches no layer of a UNet."""
    return str(folder / PRESET) if settings.model.known.convolutions else "attn-mlp"


def _lycoris_args(network: Network, preset: str) -> Iterator[tuple[str, Any]]:
    algorithm, told = THEIR_ALGORITHMS.get(network.algo, (network.algo.value, {}))
    yield "algo", algorithm
    yield "preset", preset
    if network.conv_rank and network.algo not in WITHOUT_RANK:
        yield "conv_dim", network.conv_rank
        yield "conv_alpha", float(network.conv_alpha)
    yield from told.items()
    for name, value in network.args.items():
        if value or name not in TRUE_ONLY:
            yield THEIR_ARGUMENTS.get(name, name), value


def _passed(backend: KohyaBackend) -> dict[str, Any]:
    return {name: _truth(value) for name, value in backend.network_args.items() if value or name not in TRUE_ONLY}


def _truth(value: object) -> object:
    """networks/lora_flux.py takes "True" and nothing else for true."""
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


def _text(value: object) -> str:
    """As Python writes it, since sd-scripts and LyCORIS read it so; lists as their numbers between commas."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# ----------------------------------------------------------------------------------------------------------- problems


def network_problems(settings: Settings, known: Mapping[str, tuple[str, ...]], lycoris: Lycoris) -> Iterator[Problem]:
    """What the network module would not take, or would leave without effect. `known` are the arguments of sd-scripts'
    own modules by name."""
    network, part = settings.network, network_part(settings)
    if network is None or part is None:
        yield from _without_network(settings)
        return
    if part.module == LYCORIS and part.args["algo"] not in lycoris.algorithms:
        reason = f"lycoris-lora {lycoris.version} of backend.python has no algorithm {part.args['algo']}"
        has = ", ".join(name for name in lycoris.algorithms if name)
        fix = f"network=lora, or a newer lycoris-lora there; it has: {has}"
        yield Problem("network", network.algo.value, reason, fix)
        return
    if part.module == LYCORIS and network.dropout > 0:
        reason = f"{LYCORIS} applies no dropout to algo={part.args['algo']}, so this would have no effect"
        yield Problem("network.dropout", network.dropout, reason, "network.dropout=0, or network=lora")
    taken = _taken(part, known, lycoris)
    for name, value in network.args.items():
        theirs = THEIR_ARGUMENTS.get(name, name)
        if part.module != LYCORIS or name not in TRUE_ONLY:
            yield from _argument(f"network.args.{name}", theirs, value, part, taken)
    for name, value in settings.backend.network_args.items():
        yield from _passed_argument(name, value, part, taken)


def _without_network(settings: Settings) -> Iterator[Problem]:
    for name, value in settings.backend.network_args.items():
        key = f"backend.network_args.{name}"
        yield Problem(key, value, "mode=finetune trains no network: this would have no effect", f"leave {key} out")


def _taken(part: NetworkPart, known: Mapping[str, tuple[str, ...]], lycoris: Lycoris) -> tuple[str, ...]:
    if part.module != LYCORIS:
        return known.get(part.module, ())
    return (*lycoris.algorithms[OF_THE_NETWORK], *lycoris.algorithms[part.args["algo"]])


def _argument(key: str, name: str, value: object, part: NetworkPart, taken: tuple[str, ...]) -> Iterator[Problem]:
    if name not in taken:
        algorithm = f" with algo={part.args['algo']}" if part.module == LYCORIS else ""
        reason = (
            f"{part.module}{algorithm} knows no such argument and would ignore it.{did_you_mean(name, list(taken))}"
        )
        yield Problem(
            key, value, f"{reason} It knows: {', '.join(sorted(taken))}", f"leave {key} out, or backend=native"
        )


def _passed_argument(name: str, value: object, part: NetworkPart, taken: tuple[str, ...]) -> Iterator[Problem]:
    key = f"backend.network_args.{name}"
    if name in OUR_OWN:
        yield Problem(key, value, f"is what {OUR_OWN[name]} sets", f"{OUR_OWN[name]}={value}")
    elif value is None or isinstance(value, dict):
        yield Problem(key, value, "is no value that can be passed on", f"leave {key} out")
    elif name == "preset" and isinstance(value, str) and value.endswith(".toml") and not Path(value).is_file():
        yield Problem(key, value, "there is no such file", f"{key}=full")
    else:
        yield from _argument(key, name, value, part, taken)
