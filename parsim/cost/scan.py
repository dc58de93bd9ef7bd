"""FLOPs and seconds of the selective scan of Mamba-2 in chunks, by what its kernels multiply and move."""

from __future__ import annotations

from typing import Final, NamedTuple

from parsim.cluster.accelerator import Accelerator
from parsim.cluster.efficiency import scan_s
from parsim.cluster.scalars import Scalar
from parsim.cost.sizes import Ints, Sizes
from parsim.model.dims import COMPUTE, FLOAT32
from parsim.model.op_kinds import COSTS
from parsim.step.task import Compute, Operand


class _Passes(NamedTuple):
    """What the kernels of a scan do beyond reading their operands once: kernels, and bytes an element, of how many of each width."""

    num_kernels: int
    again: int  # how often more the convolved x, B and C are read
    outputs_again: int  # and what the scan gives, or its gradient
    scores: tuple[int, int]  # of products of C and B, and their gradients: in float32, and in the narrower dtype
    states: tuple[int, int]  # of states, and their gradients


# Forward: the states of chunks, their passing, C B' of chunks, and what a token gives: x, B and C are read twice; C B' is written and
# read in float32; states are written, read, written narrow, and read.  Backward all but the last again; then gradients of states and their
# passing, which leaves both narrow; dx, dB, dC, those of C B', which are made narrow, and from these of C and B; of decays, with sums along
# chunks.
# Source: state-spaces/mamba, mamba_ssm/ops/triton/ssd_combined.py (_mamba_chunk_scan_combined_fwd and _bwd), counted here.
_PASSES: Final = {"scan": _Passes(4, 1, 0, (2, 0), (2, 2)), "scan_grad": _Passes(20, 4, 4, (5, 3), (6, 5))}
RUN_BESIDE: Final = ("causal_conv_grad_weight", "causal_conv_grad_bias", "scan_skip_grad")
"""Kernels of gradients that the kernel of another gradient gives, too: causal_conv1d_bwd, _chunk_scan_chunk_state_bwd_dx."""


def scan_flops(task: Compute, sizes: Sizes) -> Ints:
    """2 FLOPs of each product over pairs of a chunk's tokens, of tokens with states and of chunks with states, and for D.

    Pairs are those that the mask of a chunk leaves, a token with itself among them.
    """
    length, groups = _tokens_and_groups(task, sizes)
    over_state, over_width, of_tokens, of_chunks = COSTS[task.kernel].matmuls
    sequence, inner, state = sizes.local(_of(task, 0).sharding, "S"), sizes.dims["h"] * sizes.dims["p"], sizes.dims["m"]
    each = (over_state * state + over_width * inner) * _pairs(sequence, sizes.dims["c"])
    each = each + inner * state * (of_tokens * sequence + of_chunks * _num_chunks(sequence, sizes.dims["c"]))
    return 2 * (groups * length // sequence * each + groups * length * inner)


def scan_seconds(task: Compute, traffic: Ints, sizes: Sizes, accelerator: Accelerator, dtype: str, sustained: Scalar) -> Scalar:
    """Seconds of a scan, or of its gradient, whose operands are `traffic` bytes."""
    own, size = _PASSES[task.kernel], sizes.itemsize_bytes
    length, groups = _tokens_and_groups(task, sizes)
    sequence, chunk = sizes.local(_of(task, 0).sharding, "S"), sizes.dims["c"]
    inner, state = sizes.dims["h"] * sizes.dims["p"], sizes.dims["m"]
    again = groups * length * (own.again * sizes.dims["f"] + own.outputs_again * inner) * size[COMPUTE]
    scores = groups * length * chunk * _bytes(own.scores, sizes)
    states = groups * (length // sequence * _num_chunks(sequence, chunk)) * inner * state * _bytes(own.states, sizes)
    moved = traffic + again + scores + states
    is_gradient = task.kernel != "scan"
    work = scan_flops(task, sizes)
    return scan_s(accelerator, work, moved, own.num_kernels, sizes.dims["p"], dtype, is_gradient=is_gradient, sustained=sustained)


def _bytes(counts: tuple[int, int], sizes: Sizes) -> int:
    wide, narrow = counts
    return wide * sizes.itemsize_bytes[FLOAT32] + narrow * sizes.itemsize_bytes[COMPUTE]


def _of(task: Compute, index: int) -> Operand:
    found = task.inputs[index]
    assert isinstance(found, Operand)
    return found


def _tokens_and_groups(task: Compute, sizes: Sizes) -> tuple[Ints, Ints]:
    """Tokens of all sequences on a rank, and its groups of heads."""
    where = _of(task, 0).sharding
    return sizes.local(where, "B") * sizes.local(where, "S"), sizes.local(where, "g")


def _num_chunks(length: Ints, chunk: Ints) -> Ints:
    return -(-length // chunk)


def _pairs(length: Ints, chunk: Ints) -> Ints:
    """Pairs of tokens of one chunk, neither ahead of the other twice.

    >>> import numpy as np
    >>> int(_pairs(np.array(5), np.array(3)))  # 6 of three tokens, 3 of two
    9
    """
    rest = length % chunk
    found: Ints = length // chunk * (chunk * (chunk + 1) // 2) + rest * (rest + 1) // 2
    return found
