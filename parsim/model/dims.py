"""The named dims and the bytes of an element: one letter, one meaning.  A second placement is a second name (T beside S)."""

from __future__ import annotations

from typing import Final

DIMS: Final = {
    "B": "micro_batch, all replicas together",
    "S": "sequence inside a block",
    "T": "sequence on the residual stream",
    "Z": "sequence of the keys",
    "D": "hidden_size",
    "K": "kv heads",
    "R": "query heads a kv head",
    "C": "head_dim",
    "F": "ffn_hidden_size",
    "V": "vocabulary, padded",
    "H": "hidden_size, behind the dense layer of a head",
    "U": "token types",
    "Y": "labels of a text, a token or a row",
    "I": "features of a row",
    "P": "rows of the position table",
    "E": "experts where they live",
    "N": "experts where they are chosen",
    "G": "micro_batch inside experts",
}
TOKENS: Final = frozenset("BSTZG")  # dims that count tokens, or rows of a batch; all others are widths

# What an element is charged at, by the role of its tensor: "compute" and "gradient" are the scenario's, the rest fixed.
COMPUTE, GRADIENT, FLOAT32, MASK, INDEX = "compute", "gradient", "float32", "mask", "index"
MATMUL: Final = "matmul"  # what a kernel multiplies in: the scenario's dtype, whatever its operands are stored as
FIXED_ITEMSIZE_BYTES: Final = {FLOAT32: 4, MASK: 1, INDEX: 8}
