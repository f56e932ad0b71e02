"""How many parameters an adapter trains, by the shapes of the layers that it stands beside.

Each formula is that of the algorithm's module in LyCORIS 4 (lycoris/modules), whose own sources are: LoRA (arXiv
2106.09685), LoHa and LoKr (arXiv 2309.14859), DoRA (2402.09353), DyLoRA (2210.07558), GLoRA (2306.07967), OFT
(2306.07280), BOFT (2311.06243), IA3 (2205.05638), T-LoRA (2507.05964). A test builds the modules and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.records import Matrix
from pipeline.settings import Algorithm, Network

Args = Mapping[str, Any]


def adapter_parameters(matrices: Iterable[Matrix], network: Network) -> int:
    """Of all layers that the network's ranks reach."""
    count = COUNTS[network.algo]
    trained = (each for each in matrices if network.conv_rank > 0 or not (each.residual or each.kernel > 1))
    return sum(each.count * count(each, _rank(each, network), network.args) for each in trained)


def _rank(matrix: Matrix, network: Network) -> int:
    return network.rank if matrix.kernel == 1 else network.conv_rank


def _low_rank(matrix: Matrix, rank: int, args: Args) -> int:
    return _product(matrix, rank, args) + _magnitudes(matrix, args)


def _product(matrix: Matrix, rank: int, args: Args) -> int:
    """Tucker's form has a kernel of its own between the two matrices."""
    if args.get("use_tucker") and matrix.kernel > 1:
        return rank * (matrix.inputs + matrix.outputs + rank * matrix.kernel**2)
    return rank * (_wide(matrix) + matrix.outputs)


def _wide(matrix: Matrix) -> int:
    return matrix.inputs * matrix.kernel**2


def _magnitudes(matrix: Matrix, args: Args) -> int:
    if not args.get("weight_decompose"):
        return 0
    return matrix.outputs if args.get("wd_on_out", True) else matrix.inputs


def _dora(matrix: Matrix, rank: int, args: Args) -> int:
    return _low_rank(matrix, rank, {"weight_decompose": True, **args})


def _loha(matrix: Matrix, rank: int, args: Args) -> int:
    """A product of two products."""
    return 2 * _product(matrix, rank, args) + _magnitudes(matrix, args)


def _lokr(matrix: Matrix, rank: int, args: Args) -> int:
    factor = int(args.get("factor", -1))
    columns, wide = factors(matrix.inputs, factor)
    rows, high = factors(matrix.outputs, factor)
    if args.get("unbalanced_factorization"):
        rows, high = high, rows
    whole = bool(args.get("full_matrix"))
    first = rank * (rows + columns) if args.get("decompose_both") and rank < max(rows, columns) / 2 else rows * columns
    second = Matrix(wide, high, matrix.kernel, matrix.biased, matrix.residual, 1)
    small = rank < max(high, wide) / 2 and not whole
    return first + (_product(second, rank, args) if small else _wide(second) * high) + _magnitudes(matrix, args)


def _dylora(matrix: Matrix, rank: int, _: Args) -> int:
    return rank * (_wide(matrix) + matrix.outputs)


def _glora(matrix: Matrix, rank: int, _: Args) -> int:
    """What is added, and what the frozen weight is multiplied by."""
    return rank * (_wide(matrix) + matrix.outputs) + rank * 2 * matrix.inputs


def _tlora(matrix: Matrix, rank: int, _: Args) -> int:
    return rank * (matrix.inputs + matrix.outputs + 1)


def _diag_oft(matrix: Matrix, rank: int, args: Args) -> int:
    size, blocks = factors(matrix.outputs, rank)
    return blocks * size**2 + _rescaled(matrix, args)


def _boft(matrix: Matrix, rank: int, args: Args) -> int:
    """As many blocks as they are in diag_oft, for each level of the butterfly."""
    size = butterfly_block(matrix.outputs, rank)
    levels = (matrix.outputs // size - 1).bit_count() + 1
    return levels * matrix.outputs * size + _rescaled(matrix, args)


def _rescaled(matrix: Matrix, args: Args) -> int:
    return matrix.outputs if args.get("rescaled") else 0


def _full(matrix: Matrix, _rank: int, _args: Args) -> int:
    return _wide(matrix) * matrix.outputs + (matrix.outputs if matrix.biased else 0)


def _ia3(matrix: Matrix, _: int, args: Args) -> int:
    return matrix.inputs if args.get("train_on_input") else matrix.outputs


def factors(size: int, factor: int) -> tuple[int, int]:
    """Two numbers with that product, the smaller one first: `factor` if it divides, else the greatest divisor that is
    no greater; the nearest to each other for -1."""
    if factor > 0 and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    most = min(size if factor < 0 else factor, int(size**0.5))
    least = next(divisor for divisor in range(most, 0, -1) if size % divisor == 0)
    return least, size // least


def butterfly_block(size: int, most: int) -> int:
    """The largest even block, no larger than `most`, of which a power of two fills the size; the whole where none
    does: LyCORIS refuses that."""
    sizes = (block for block in range(most - most % 2, 0, -2) if size % block == 0)
    return next((block for block in sizes if (size // block).bit_count() == 1), size)


COUNTS: Mapping[Algorithm, Callable[[Matrix, int, Args], int]] = {
    Algorithm.lora: _low_rank,
    Algorithm.locon: _low_rank,
    Algorithm.loha: _loha,
    Algorithm.lokr: _lokr,
    Algorithm.dora: _dora,
    Algorithm.dylora: _dylora,
    Algorithm.glora: _glora,
    Algorithm.diag_oft: _diag_oft,
    Algorithm.boft: _boft,
    Algorithm.full: _full,
    Algorithm.ia3: _ia3,
    Algorithm.tlora: _tlora,
}
