"""What `parsim init --example` writes: scenarios that train here in miniature, which lie beside the package, in parsim/examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# By name: the file, and what it shows.
EXAMPLES: Final[Mapping[str, tuple[str, str]]] = {
    "softmax": ("digits-softmax", "the smallest classifier: Input -> Dense -> relu -> Dense softmax, on one rank"),
    "regression": ("digits-regression", "a softmax regression: Input -> Dense softmax, no hidden layer, replicas or a master"),
    "mlp": ("digits-mlp", "an MLP classifier of digits: data parallel, through a master, by layers, by columns and rows, mixed"),
    "images": ("digit-images", "a vision transformer that reads the same digits in patches"),
    "gpt": ("tiny-gpt-pydoc", "a tiny GPT that learns to spell"),
    "translation": ("machine-translation", "machine translation with an encoder and a decoder"),
    "roles": ("semantic-roles", "semantic role labelling: who did what to whom"),
    "texts": ("text-classification", "text classification with an encoder"),
    "sentiment": ("sentiment", "praise or fault, which the order of words tells"),
}
