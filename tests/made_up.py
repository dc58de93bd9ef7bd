"""What nobody has: dimensions and a family of models, as the files of a folder of the user's own, and a schedule."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from parsim.model import families
from parsim.parallel import dimensions
from parsim.schedules import Action, Phase, Schedule
from support import forget_steps

FFN = '''"""FFN parallelism: only the MLP is split, over ranks of its own."""

from parsim.parallel.dimensions import DIMENSIONS, Dimension

DIMENSIONS.register("ffn_parallel", Dimension("ffn_parallel", "fp", ("F",), "made up", 60))
'''
SAMPLES = '''"""A second axis of data parallelism, inside the first."""

from parsim.parallel.dimensions import DIMENSIONS, Dimension

DIMENSIONS.register("sample_parallel", Dimension("sample_parallel", "sa", ("B",), "made up", 30))
'''
STREAM = '''"""Sequence parallelism under another name, over the tensor-parallel ranks."""

from parsim.parallel.dimensions import DIMENSIONS, Dimension

DIMENSIONS.register("stream_split", Dimension("stream_split", "tp", ("T",), "made up", None))
'''
EXCHANGE = '''"""Samples over `xp` outside, experts over it inside."""

from parsim.parallel.dimensions import DIMENSIONS, Dimension

DIMENSIONS.register("exchange_parallel", Dimension("exchange_parallel", "xp", ("B", "E"), "made up", 40))
'''
MIXTURE = '''"""An MLP whose layers are a sum of experts, each of which sees every row, weighted a feature each."""

from msgspec import Struct
from typing import ClassVar

from parsim.model.families import FAMILIES, Family, blocks_of, by_name
from parsim.model.families.mlp import MlpArchitecture, MlpSpec
from parsim.model.op import Block, Op
from parsim.model.spec import figure


class MixtureArchitecture(MlpArchitecture, frozen=True, kw_only=True):
    family: ClassVar[str] = "mixture"


class MixtureSpec(MlpSpec, frozen=True, kw_only=True):
    num_experts: int = figure("the number of experts")

    @property
    def architecture(self):
        return MixtureArchitecture(activation=self.activation, bias=self.bias, dropout=False)

    @property
    def extents(self):
        return {**MlpSpec.extents.fget(self), "E": self.num_experts, "N": self.num_experts, "J": self.ffn_hidden_size}


def blocks(kind, attention, fusions):
    first, _, last = blocks_of(MlpArchitecture(activation=kind.activation, bias=kind.bias, dropout=False), attention, fusions).values()
    ops = (
        Op("spread", "B T D, N D -> N B T D", ("x", "spread.weight"), ("spread",)),
        Op("tokens", "N B T D -> N M D", ("spread",), ("tokens",), "flatten", attributes=(("inner", "local:T"),)),
        Op("enter_experts", "N M D -> E G D", ("tokens",), ("expert_in",), "relabel"),
        Op("up_gemm", "E G D, E D J -> E G J", ("expert_in", "up.weight"), ("hidden",)),
        Op("activation", "E G J -> E G J", ("hidden",), ("active",), kind.activation),
        Op("down_gemm", "E G J, E J D -> E G D", ("active", "down.weight"), ("expert_out",)),
        Op("leave_experts", "E G D -> N M D", ("expert_out",), ("left",), "relabel"),
        Op("sequences", "N M D -> N B T D", ("left",), ("back",), "unflatten", attributes=(("inner", "local:T"),)),
        Op("combine", "N B T D, N D -> B T D", ("back", "combine.weight"), ("sum",)),
        Op("residual", "B T D, B T D -> B T D", ("x", "sum"), ("y",), "add"),
    )
    weights = dict.fromkeys(("spread.weight", "up.weight", "down.weight", "combine.weight"), "normal")
    return by_name(first, Block("layer", ops, weights), last)


FAMILIES.register("mixture", Family(MixtureSpec, blocks))
'''
UNEVEN = '''"""FFN units dealt out unevenly, by a table of integers."""

from parsim.parallel.dimensions import DIMENSIONS, Dimension

TABLE = {(16, 2): (6, 10), (16, 3): (3, 9, 4)}


def share(extent, ranks):
    return TABLE.get((extent, ranks), (extent - ranks + 1, *(1,) * (ranks - 1)))


DIMENSIONS.register("uneven_ffn", Dimension("uneven_ffn", "uf", ("F",), "made up", 60, share=share))
'''
DEALT = '''"""What moves between ranks by tables: the stream over the ranks of an FFN, experts over those of samples; or samples as well."""

from parsim.parallel.dimensions import DIMENSIONS, Dimension

TABLE = {(8, 2): (3, 5), (8, 3): (1, 5, 2), (5, 2): (2, 3), (4, 2): (3, 1), (5, 3): (1, 0, 4), (6, 3): (2, 3, 1)}


def share(extent, ranks):
    return TABLE[extent, ranks]


DIMENSIONS.register("ffn_of_stream", Dimension("ffn_of_stream", "st", ("F",), "made up", 60))
DIMENSIONS.register("dealt_stream", Dimension("dealt_stream", "st", ("T",), "made up", None, share=share))
DIMENSIONS.register("samples_of_experts", Dimension("samples_of_experts", "ex", ("B",), "made up", 40))
DIMENSIONS.register("dealt_experts", Dimension("dealt_experts", "ex", ("E",), "made up", None, share=share))
DIMENSIONS.register("dealt_both", Dimension("dealt_both", "bo", ("B", "E"), "made up", 45, share=share))
'''
FILES = {
    "ffn": FFN,
    "samples": SAMPLES,
    "stream": STREAM,
    "exchange": EXCHANGE,
    "mixture": MIXTURE,
    "uneven": UNEVEN,
    "dealt": DEALT,
}


@contextmanager
def registered(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[str]:
    """These files known as a package of this name, forgotten again behind.  A worker process learns of them when it is sent a model."""
    name = f"mine_{abs(hash(folder))}"
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("".join(f"from . import {each}\n" for each in FILES))
    for each, text in FILES.items():
        (folder / name / f"{each}.py").write_text(text)
    patch.syspath_prepend(str(folder))
    dimensions.names(), families.names()
    for registry in (dimensions.DIMENSIONS, families.FAMILIES):
        patch.setattr(registry, "_values", dict(registry._values))  # type: ignore[attr-defined]
    importlib.import_module(name)
    forget_steps()
    try:
        yield name
    finally:
        forget_steps()


def mixture(package: str, **changes: Any) -> Any:
    """A model of the family above."""
    spec = importlib.import_module(f"{package}.mixture").MixtureSpec
    return spec(
        name="mixture",
        **{"num_layers": 2, "hidden_size": 6, "ffn_hidden_size": 8, "num_features": 5, "num_labels": 3, "num_experts": 4, **changes},
    )


class Vee(Schedule):
    """Two chunks a rank, down the ranks and up again; all forwards, then all backwards."""

    source = "made up; the placement of Qi et al. 2024 (arXiv:2405.15362)"

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        return None if chunks == 2 else "runs two chunks a rank"

    def rank_of(self, stage: int, num_ranks: int) -> int:
        return min(stage, 2 * num_ranks - 1 - stage)

    def order(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Iterator[Action]:
        own = (rank, 2 * num_ranks - 1 - rank)
        yield from (Action(stage, Phase.F, m) for stage in own for m in range(num_micro_batches))
        yield from (Action(stage, Phase.B, m) for stage in reversed(own) for m in range(num_micro_batches))
