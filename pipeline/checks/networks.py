"""The algorithms' own arguments, as LyCORIS names them.

LyCORIS takes any keyword and ignores those that an algorithm does not know, so that a misspelt one would train
something else without a word. Listed is what each algorithm's module takes and uses (lycoris.modules).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.errors import Problem, did_you_mean
from pipeline.settings import Algorithm, Network

Kinds = Mapping[str, type]

SKIPPING: Kinds = {"module_dropout": float}
DROPPING: Kinds = {**SKIPPING, "rank_dropout": float, "rank_dropout_scale": bool}
SCALING: Kinds = {**DROPPING, "use_scalar": bool, "rs_lora": bool}
PRODUCT: Kinds = {**SCALING, "use_tucker": bool}
DECOMPOSED: Kinds = {**PRODUCT, "weight_decompose": bool, "wd_on_out": bool}
ROTATING: Kinds = {**SKIPPING, "constraint": float, "rescaled": bool}

ARGUMENTS: Mapping[Algorithm, Kinds] = {
    Algorithm.lora: SCALING,
    Algorithm.locon: PRODUCT,
    Algorithm.loha: DECOMPOSED,
    Algorithm.lokr: {
        **DECOMPOSED,
        **{"factor": int, "decompose_both": bool, "full_matrix": bool, "unbalanced_factorization": bool},
    },
    Algorithm.dora: {**PRODUCT, "wd_on_out": bool},
    Algorithm.dylora: {**SKIPPING, "block_size": int},
    Algorithm.glora: PRODUCT,
    Algorithm.diag_oft: ROTATING,
    Algorithm.boft: ROTATING,
    Algorithm.full: DROPPING,
    Algorithm.ia3: {**SKIPPING, "train_on_input": bool},
    Algorithm.tlora: {**SKIPPING, "sig_type": str, "use_data_init": bool},
}

WITHOUT_CONVOLUTIONS = {Algorithm.lora, Algorithm.tlora}
WITH_DROPOUT = {Algorithm.lora, Algorithm.locon}
"""The other modules of LyCORIS never apply `network.dropout` (tried with 4.1: two passes are equal)."""
SINGULAR_VECTORS = ("principal", "last", "middle")
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def network_problems(network: Network) -> Iterator[Problem]:
    """Settings of the network that its algorithm does not know, or would leave without effect."""
    for name, value in network.args.items():
        yield from _argument(network.algo, name, value)
    if network.algo in WITHOUT_CONVOLUTIONS and network.conv_rank > 0:
        reason = f"algo {network.algo.value} adapts no 3x3 convolutions, so this would have no effect"
        yield Problem("network.conv_rank", network.conv_rank, reason, "network=locon, or network.conv_rank=0")
    if network.algo not in WITH_DROPOUT and network.dropout > 0:
        reason = f"algo {network.algo.value} applies no dropout, so this would have no effect"
        yield Problem("network.dropout", network.dropout, reason, "network.dropout=0")
    if network.algo is Algorithm.dylora:
        yield from _whole_blocks(network)


def _argument(algo: Algorithm, name: str, value: object) -> Iterator[Problem]:
    key, known = f"network.args.{name}", ARGUMENTS[algo]
    if name not in known:
        reason = f"algo {algo.value} has no such argument (it has: {', '.join(sorted(known))})."
        yield Problem(key, value, reason + did_you_mean(name, list(known)), f"~{key}")
    elif not _is_a(value, known[name]):
        yield Problem(key, value, f"must be {WORDS[known[name]]}", f"{key}=...")
    elif name.endswith("_dropout") and isinstance(value, int | float) and not 0 <= value < 1:
        yield Problem(key, value, "must be at least 0 and less than 1", f"{key}=0.1")
    elif name == "sig_type" and value not in SINGULAR_VECTORS:
        yield Problem(key, value, f"must be one of {', '.join(SINGULAR_VECTORS)}", f"{key}=principal")


def _is_a(value: object, kind: type) -> bool:
    """True is an int to Python, and not to us; 1 is also a number with a point."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _whole_blocks(network: Network) -> Iterator[Problem]:
    """DyLoRA trains its ranks in blocks."""
    block_size = network.args.get("block_size", 4)
    if type(block_size) is not int or block_size < 1:
        if "block_size" in network.args:
            yield Problem("network.args.block_size", block_size, "must be at least 1", "network.args.block_size=4")
        return
    for name, rank in (("rank", network.rank), ("conv_rank", network.conv_rank)):
        if rank % block_size:
            reason = f"dylora trains ranks in blocks of {block_size} (network.args.block_size)"
            more = (rank // block_size + 1) * block_size
            yield Problem(f"network.{name}", rank, reason, f"network.{name}={more}")
