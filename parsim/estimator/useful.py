"""The FLOPs that training a step's tokens needs, whatever the plan: of real tokens, and with what is done to padding."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from parsim.model.parameters import model_flops_per_token

if TYPE_CHECKING:
    from parsim.scenario import Scenario


class StepFlops(NamedTuple):
    """FLOPs of a step on all devices, nothing recomputed."""

    counted: int  # with the pairs of query and key that MFU counts, of a token's own document
    causal: int  # with those that masks leave
    computed: int  # as `counted`, of padding too, and of documents that attention does not keep apart


def step_flops(scenario: Scenario) -> StepFlops:
    """Those of the scenario's batch.

    >>> import parsim
    >>> batch = {"global_batch": 4, "sequence_length": 16, "packing": "padded", "lengths": [8]}
    >>> found = step_flops(parsim.from_mapping({"model": "tiny-gpt", "cluster": {"node": "dgx-a100-80gb"}, "batch": batch}))
    >>> found.counted < found.computed // 2
    True
    """
    model, batch = scenario.model, scenario.batch
    length, rows = batch.sequence_length, batch.global_batch
    whole, causal = model_flops_per_token(model, length, batch.source)
    if not batch.packing:
        return StepFlops(whole * rows * length, causal * rows * length, whole * rows * length)
    of_weights = whole - model.attention_flops_per_token(length, length)[0]
    counted, masked = (of_weights * batch.num_tokens + each for each in _of_attention(scenario, Counter(batch.real_documents)))
    held = batch.documents if batch.documents and scenario.stack.attention == "flash" else (length,)
    computed = of_weights * rows * length + _of_attention(scenario, Counter(held * rows))[0]
    return StepFlops(counted, masked, computed)


def _of_attention(scenario: Scenario, lengths: Counter[int]) -> tuple[int, int]:
    """As MFU counts pairs and as masks leave them, of so many documents of each length."""
    each = [(often * tokens, scenario.model.attention_flops_per_token(tokens, tokens)) for tokens, often in lengths.items()]
    return sum(count * flops[0] for count, flops in each), sum(count * flops[1] for count, flops in each)
