"""The named dims and the bytes of an element: one letter, one meaning.  A second placement is a second name (T beside S)."""

from __future__ import annotations

from typing import Final

# Of chains of dense layers, the widest of either kind first: units that ranks cut, and those that they hold whole.
CUT_UNITS: Final = tuple(f"F{rank}" for rank in range(8))
WHOLE_UNITS: Final = ("D", *(f"D{rank}" for rank in range(1, 8)))
DIMS: Final = {
    "B": "micro_batch, all replicas together",
    "S": "sequence inside a block",
    "T": "sequence on the residual stream",
    "Q": "sequence of the queries in attention",
    "s": "sequence in a chunk of the loss",
    "Z": "sequence of the keys",
    "D": "hidden_size",
    "K": "kv heads",
    "A": "kv heads in attention",
    "R": "query heads a kv head",
    "C": "head_dim",
    "q": "q_lora_rank",
    "l": "kv_lora_rank",
    "n": "qk_nope_head_dim",
    "r": "elements of a head that are turned by position, where not all are: rotary_dim, or qk_rope_head_dim",
    "v": "v_head_dim",
    "w": "tokens that a token sees where it does not see all",
    "F": "ffn_hidden_size",
    "a": "rank of adapters, where their first matrices make it",
    "b": "rank of adapters, where their second matrices sum over it",
    "be": "the same of experts, where ranks that share an expert make or hold it in parts",
    "d": "hidden_size, as the second matrices of adapters make it of layers cut by rows",
    "j": "width of embeddings, where the stream has another",
    "o": "numbers of a nonlinearity that has some: 1",
    "V": "vocabulary, padded",
    "W": "vocabulary, padded, as the loss sees it",
    "H": "hidden_size, behind the dense layer of a head",
    "U": "token types",
    "Y": "labels of a text, a token or a row",
    "I": "features of a row, or of a patch",
    "P": "rows of the position table",
    "e": "rows of a table of relative positions",
    "E": "experts where they live",
    "N": "experts where they are chosen",
    "O": "slots of experts in a run of tokens, where they are chosen",
    "X": "the same where experts live",
    "M": "runs of tokens, those of a rank one after another",
    "G": "runs of tokens inside experts",
    "J": "ffn_hidden_size of an expert",
    "y": "width of the vectors that go to experts, where tokens do not go themselves",
    "L": "ffn_hidden_size of the experts that all tokens share",
    "g": "groups of Mamba's heads, which share B and C",
    "h": "heads a group",
    "p": "width of such a head",
    "m": "width of its state",
    "f": "channels a group that are convolved: x of its heads, B and C",
    "k": "tokens that the convolution sees",
    "c": "tokens of a chunk of the scan",
    "x": "patches of an image",
    "i": "sequence of the source inside a block",
    "t": "sequence of the source on its residual stream",
    "u": "sequence of the source's queries in attention",
    "z": "sequence of the source's keys",
    "St": "tokens of text, behind those of an image",
    "Fp": "width inside the projector of images",
    **{
        f"{dim}i": f"{what}, of a vision tower"
        for dim, what in {
            **{
                "S": "sequence inside a block",
                "T": "sequence on the residual stream",
                "Q": "sequence of the queries",
                "Z": "sequence of the keys",
            },
            **{"D": "hidden_size", "K": "heads", "A": "heads in attention", "R": "query heads a head", "C": "head_dim"},
            **{"F": "ffn_hidden_size", "P": "rows of the position table"},
        }.items()
    },
    **dict.fromkeys((*CUT_UNITS, *WHOLE_UNITS[1:]), "units of a dense layer"),
    "Kf": "kv heads, in layers with full attention whose heads are others than elsewhere",
    "Af": "kv heads in attention, there",
    "Rf": "query heads a kv head, there",
    "Cf": "head_dim, there",
    "rf": "elements of a head that are turned, there",
}
FULL: Final = {"K": "Kf", "A": "Af", "R": "Rf", "C": "Cf", "r": "rf"}  # of heads with full attention, beside those of others
KV_HEADS: Final = ("K", FULL["K"])
QUERY_HEADS: Final = ("R", FULL["R"])
HEADS: Final = (*KV_HEADS, *QUERY_HEADS)  # of which ranks beyond the kv heads hold copies, and a part
SOURCE: Final = {"S": "i", "T": "t", "Q": "u", "Z": "z"}  # of what an encoder reads, beside a decoder's own
TOWER: Final = {dim: f"{dim}i" for dim in "STQZDKARCFP"}  # of a vision tower, beside those of the decoder behind it
QUERIES, KEYS = ("Q", "u", TOWER["Q"]), ("Z", "z", TOWER["Z"])  # in attention
TOKEN_DIMS: Final = frozenset(
    (*"BSTQsZOXMGituzx", "St", *(TOWER[dim] for dim in "STQZ"))
)  # dims that count tokens, or rows of a batch; all others are widths

LOGITS: Final = "W"  # which a stack may gather
TOKENS: Final = "M"  # where they leave for experts and come back
REVERSED: Final = (
    "K",
    "A",
    "Kf",
    "Af",
)  # over which the innermost axis of the mesh lies outermost: heads that tensor parallelism cut are cut again
FREE: Final = ("M", "G")  # whose elements may lie in any order
SEQUENCE: Final = "STQZ"
SLOTS: Final = "OX"  # which layers whose experts have other loads have more of, or fewer
PLACEMENTS: Final = (SEQUENCE, "".join(SOURCE.values()), "EN", "KA", SLOTS)  # names of one extent, in several placements


def dim_of_loads(dim: str, loads: int) -> str:
    """What sizes call a dim of experts with these loads: slots have as many names as there are loads."""
    return f"{dim}{loads}" if loads and dim in SLOTS else dim


# What an element is charged at, by the role of its tensor: "compute", "gradient" and "master" are the scenario's, the rest fixed.
COMPUTE, GRADIENT, FLOAT32, MASK, INDEX = "compute", "gradient", "float32", "mask", "index"
MASTER: Final = "master"  # the weights that an optimizer updates: a copy, or those that are computed with
FLAT_AND_CAST: Final = "flat and float32 gradients"  # one copy as gradients are stored, and one in float32 where that is wider
EIGHT_BITS: Final = "eight bits"  # what a kernel of attention in 8 bits reads
QUANTISED: Final = "quantised"  # what linear layers multiply, and what of it is kept for backward or sent
PACKED: Final = "packed"  # frozen matrices in 4 bits, with their scales
MATMUL: Final = "matmul"  # what a kernel multiplies in, whatever its operands are stored as
LINEAR: Final = "linear"  # the same of the linear layers of a model's layers, where it differs
FIXED_ITEMSIZE_BYTES: Final = {FLOAT32: 4, MASK: 1, INDEX: 8, EIGHT_BITS: 1}
