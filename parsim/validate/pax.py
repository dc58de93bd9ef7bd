"""What Paxml's configurations of GPT and Llama run where a row of their results says nothing: policy, attention, and who shares weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from parsim.validate.table import TableRow


class PaxRecipe(Struct, frozen=True):
    """A policy of custom.py, none, or "", left open; attention, where that is not the stack's; ranks that share weights, 0 being all."""

    policy: str
    attention: str = ""
    zero_group: int = 0


# By what `source` may hold, then by the layers of the model.
RECIPES: Final[Mapping[str, Mapping[int, PaxRecipe]]] = {
    # google/paxml@b397693f, paxml/contrib/gpu/scripts_gpu/configs.py: GPT126MBase and, by run_llama_boolq.sh, Llama 7B, 13B and 70B without
    # USE_REPEATED_LAYER, under which alone paxml/tasks/lm/model_params.py sets a policy; GPT5BBase SAVE_DOT_WITH_NO_BATCH_DIM; GPT175BBase
    # that of model_params.py, SAVE_NOTHING.  NVIDIA/JAX-Toolbox@28603900, rosetta/rosetta/projects/pax/README.md: "126M performance
    # numbers were gathered without flash attention".
    "rosetta/projects/pax/": {
        12: PaxRecipe("none", "fused_softmax"),
        24: PaxRecipe("minimal"),
        96: PaxRecipe("full"),
        **dict.fromkeys((32, 40, 80), PaxRecipe("none")),
    },
    # NVIDIA/dgxc-benchmarking, tag v25.01, paxml/paxml_mod_configs.py: Synthetic5BCkpt SAVE_DOT_ONLY (flash attention is no dot);
    # configure.sh: FSDP over nodes is 1 for 5b, 16 for 175b, and over the 8 devices of each.  SAVE_QKV_OUT_PROJ of Synthetic175BCkpt stays
    # open: ops that run again by themselves keep what they read twice in 8 bits, with which that would not fit.
    "NVIDIA/dgxc-benchmarking paxml/": {
        24: PaxRecipe("minimal", zero_group=8),
        96: PaxRecipe("", zero_group=128),
    },
}


def pax_recipe_of(row: TableRow) -> PaxRecipe | None:
    """The configuration behind a row of Paxml's published results; None of any other.

    >>> row = TableRow({"source": "NVIDIA/dgxc-benchmarking paxml/README_5b.md"}, {"num_layers": 24}, {}, ())
    >>> pax_recipe_of(row)
    PaxRecipe(policy='minimal', attention='', zero_group=8)
    """
    recipes: Mapping[int, PaxRecipe] = next((found for held, found in RECIPES.items() if held in row.says("source")), {})
    return recipes.get(row.counts.get("num_layers", 0))
