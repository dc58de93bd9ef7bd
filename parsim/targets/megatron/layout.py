"""Which layers the stages of Megatron Core hold: `--pipeline-model-parallel-layout`, and the flags that it had before.

Source: NVIDIA/Megatron-LM, megatron/core/transformer/pipeline_parallel_layer_layout.py and transformer_block.py (get_num_layers_to_build).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

from parsim.targets.target import KeyValue

LAYERS: Final = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}
MOST: Final = 100_000  # letters of a layout


def layout_text(layers: Sequence[int], mtp_layers: int) -> str:
    """The layout of stages that hold so many layers, and at the ends embedding, modules that predict later tokens, and loss.

    >>> layout_text((1, 3, 0), 1)
    'Et|t*3|mL'
    """
    stages = ["t" * count for count in layers]
    stages[0] = f"E{stages[0]}"
    stages[-1] += f"{'m' * mtp_layers}L"
    return "|".join("".join(_run(letter, len([*own])) for letter, own in groupby(stage)) for stage in stages)


def _run(letter: str, count: int) -> str:
    return f"{letter}*{count}" if count > 1 else letter


def layers_in(layout: KeyValue) -> tuple[int, ...] | None:
    """The layers of each stage of a layout, a text, or lists of letters or names; None where it is none, or its ends lie elsewhere.

    >>> layers_in("Ettt|(tt|)*2,t|L"), layers_in([["embedding", "decoder"], ["decoder", "loss"]]), layers_in("tE|tL|t")
    ((3, 2, 2, 1, 0), (1, 1), None)
    """
    if isinstance(layout, str):
        stages = _unroll(layout.replace(",", "").replace(" ", "")).split("|")
    elif isinstance(layout, list | tuple) and all(isinstance(stage, list | tuple | str) for stage in layout):
        stages = [_letters([stage] if isinstance(stage, str) else stage) for stage in layout]
    else:
        return None
    if not re.fullmatch(r"Et*\|(t*\|)*t*m*L|Et*m*L", "|".join(stages)) and not re.fullmatch(r"Et*\|(t*\|)*m+\|L", "|".join(stages)):
        return None
    return tuple(stage.count("t") for stage in stages)


def _letters(stage: Iterable[KeyValue]) -> str:
    return "".join(LAYERS.get(str(each).strip().lower(), str(each)) for each in stage)


def _unroll(text: str) -> str:
    for pattern in (r"\(([^()]+)\)\*(\d{1,5})", r"(.)\*(\d{1,5})"):
        size = sum(len(each[1]) * int(each[2]) for each in re.finditer(pattern, text))
        text = re.sub(pattern, lambda found: found[1] * int(found[2]), text) if size <= MOST else ""
    return text


def from_ends(num_layers: int, ranks: int, chunks: int, first: int | None, last: int | None) -> tuple[int, ...] | None:
    """The layers of each stage where the first or last rank has a number of its own, and the others share out the rest; None: unevenly.

    >>> from_ends(10, 3, 1, 2, None), from_ends(12, 3, 2, 2, 2)
    ((2, 4, 4), (1, 4, 1, 1, 4, 1))
    """
    stated = [each for each in (first, last) if each is not None]
    rest, others = num_layers - sum(stated), ranks - len(stated)
    if rest < 0 or (others and rest % others) or (not others and rest):
        return None
    middle = [rest // others] * others if others else []
    by_rank = [*([first] if first is not None else []), *middle, *([last] if last is not None else [])]
    return tuple(each // chunks for each in by_rank) * chunks if all(each % chunks == 0 for each in by_rank) else None


def with_ends_counted(num_layers: int, stages: int, *, embedding: bool, loss: bool) -> tuple[int, ...] | None:
    """The layers of each stage where embedding and loss count as one each; None: unevenly.

    >>> with_ends_counted(10, 4, embedding=True, loss=True)
    (2, 3, 3, 2)
    """
    each, rest = divmod(num_layers + embedding + loss, stages)
    if rest:
        return None
    layers = [each] * stages
    layers[0] -= embedding
    layers[-1] -= loss
    return tuple(layers)
