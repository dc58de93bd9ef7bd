"""The figures of experts: how many, which of them tokens choose, what weighs them, and what does not fit in these."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any

from parsim.errors import did_you_mean
from parsim.model import gates
from parsim.model.loads import NO_SLOTS, Slots, expert_loads, slot_tokens, slots_in_groups, zipf
from parsim.model.spec import ModelSpec, figure

_OF_EXPERTS = (
    "shared_ffn_hidden_size",
    "experts_beside_mlp",
    "expert_latent_size",
    "expert_groups",
    "load_skew",
    "load_shares",
    "load_seed",
    "capacity_factor",
    "balance_coefficient",
    "steer_rate",
)  # figures that need some


def _as_list(value: Any) -> Any:
    """A tuple as a file lists it."""
    return [*map(_as_list, value)] if isinstance(value, tuple) else value


class RoutedSpec(ModelSpec, frozen=True, kw_only=True, dict=True):
    """A model whose layers may have experts in place of an MLP."""

    num_experts: int = figure("the experts of a layer that has some; 0 makes all layers dense", 0, zero=True, most=100_000)
    experts_per_token: int = figure("the experts that a token chooses", 1)
    expert_ffn_hidden_size: int = figure(
        "the width of an expert; ffn_hidden_size where left out", 0, rule=lambda row: row.get("ffn_hidden_size") or 4 * row["hidden_size"]
    )
    shared_ffn_hidden_size: int = figure("the width of all experts that every token passes, together; 0: there are none", 0, zero=True)
    expert_latent_size: int = figure(
        "the width of vectors that go to experts, which a matrix makes of tokens, and another makes tokens of their sums; 0: tokens go",
        0,
        zero=True,
        aliases=("moe_latent_size",),
    )
    shared_expert_gate: bool = figure("whether the sigmoid of a logit of each token weighs what these give", False)
    expert_groups: int = figure("groups of experts side by side, such as those of a node; 0 and 1: all are one", 0, zero=True)
    groups_per_token: int = figure("with expert_groups how many of them a token's experts are from, at most; 0: all", 0, zero=True)
    gates: str = figure(
        "what weighs the experts that a token chose: softmax or sigmoid over them, pre_softmax over all, own_sigmoid, expert_choice",
        "softmax",
    )
    gate_scale: float = figure("what gates are multiplied by", 1.0, most=1_000)
    gates_on_input: bool = figure("whether they weigh what enters an expert, not what its nonlinearity gives", False)
    load_skew: float = figure("how unevenly tokens choose experts: the exponent of Zipf's law; 0 balances them", 0.0)
    load_seed: int = figure(
        "draws for each layer with experts anew which of them load_skew favours; 0: in all layers the same", 0, zero=True
    )
    load_shares: tuple[float | tuple[float, ...], ...] = figure(
        "how tokens choose experts, a number each: shares, or tokens; a list of such lists has one for each layer with experts, in order; "
        "file:PATH names a CSV or JSON file of tokens by layer and expert",
        (),
    )
    capacity_factor: float = figure(
        "times an even share of the tokens of a run that an expert takes, as drop_policy says; others are dropped; 0: none are",
        0.0,
        most=100_000,
    )
    drop_policy: str = figure(
        "which tokens an expert of a capacity keeps: the first, or those of the largest gates", "position", legal=("position", "probs")
    )
    pad_to_capacity: bool = figure("whether each expert computes as many rows as it may take, some of them empty", False)
    balance_coefficient: float = figure("times the auxiliary loss that balances loads, which adds to gradients of routers; 0: none", 0.0)
    steer_rate: float = figure(
        "how far a step moves the bias that steers choices of an expert, up where its load is below the mean, else down; 0: none",
        0.0,
    )
    experts_beside_mlp: bool = figure(
        "whether layers with experts have an MLP, too: both read the stream, and norms of their own stand before and behind either; the "
        "router reads a norm of its own, and a factor of each expert multiplies its gates (Gemma 4)",
        False,
    )
    num_dense_layers: int = figure("the first layers, which have no experts", 0, zero=True)
    expert_layer_every: int = figure("of the layers behind them each so many-th has experts", 1)

    @property
    def has_dense(self) -> bool:
        """Whether a layer has an MLP that all tokens pass."""
        return self.num_experts == 0 or self.num_dense_layers > 0 or self.expert_layer_every > 1 or self.experts_beside_mlp

    def has_experts(self, layer: int) -> bool:
        """Whether a layer has experts in place of a dense MLP."""
        place = layer - self.num_dense_layers
        return self.num_experts > 0 and place >= 0 and (place + 1) % self.expert_layer_every == 0

    @property
    def steering(self) -> float:
        """As stated."""
        return self.steer_rate

    @property
    def limits_groups(self) -> bool:
        """Whether a token may not use experts of all groups."""
        return 0 < self.groups_per_token < self.expert_groups

    def experts_misfit(self) -> str:
        """What does not fit in the figures of experts; "" where all do."""
        if self.shared_expert_gate and not self.shared_ffn_hidden_size:
            return "shared_expert_gate = true weighs what shared experts give, but shared_ffn_hidden_size = 0"
        if self.num_experts and self.experts_per_token > self.num_experts:
            return f"experts_per_token = {self.experts_per_token} is above num_experts = {self.num_experts}"
        if self.num_experts and not self.expert_ffn_hidden_size:
            return "expert_ffn_hidden_size = 0 leaves experts no width; give one"
        if self.num_experts and not any(self.has_experts(layer) for layer in range(self.num_layers)):
            said = f"num_dense_layers = {self.num_dense_layers} and expert_layer_every = {self.expert_layer_every}"
            return f"{said} leave none of {self.num_layers} layers its experts"
        beside = next((name for name in _OF_EXPERTS if getattr(self, name)), "")
        if beside and not self.num_experts:
            value = getattr(self, beside)
            return f"{beside} = {_as_list(value)} goes with experts, but num_experts = 0"
        if self.gates not in gates.names():
            return f"gates = {self.gates} is none{did_you_mean(self.gates, gates.names())}; known: {', '.join(gates.names())}"
        if not self.gate_scale:
            return "gate_scale = 0.0 leaves nothing of what experts compute; 1 scales nothing"
        limits = {"groups_per_token": self.limits_groups, "steer_rate": self.steer_rate > 0}
        if (name := next((each for each, on in limits.items() if on), "")) and gates.gate(self.gates).choose is not slot_tokens:
            verb = "steers" if name == "steer_rate" else "limits"
            return f"{name} = {getattr(self, name)} {verb} what tokens choose, but gates = {self.gates} chooses otherwise"
        if self.drop_policy != "position" and not self.capacity_factor:
            return f"drop_policy = {self.drop_policy} goes with capacity_factor, which is 0; give one"
        if self.pad_to_capacity and not self.capacity_factor:
            return "pad_to_capacity = true pads to the capacity that capacity_factor states, which is 0; give one"
        return self._groups_misfit() or self._loads_misfit()

    def _groups_misfit(self) -> str:
        """What does not fit in the groups of experts."""
        groups, own, experts = self.expert_groups, self.groups_per_token, self.num_experts
        left = own * experts // max(groups, 1)  # of the groups that a token uses
        if own > max(groups, 1):
            return f"groups_per_token = {own} is above expert_groups = {groups}"
        if groups and experts % groups:
            return f"expert_groups = {groups} does not divide num_experts = {experts}"
        if self.limits_groups and self.experts_per_token > left:
            return f"groups_per_token = {own} leaves a token {left} experts, but experts_per_token = {self.experts_per_token}"
        return ""

    def _loads_misfit(self) -> str:
        """What does not fit in the loads of experts that are given."""
        if self.load_seed and not self.load_skew:
            return f"load_seed = {self.load_seed} draws which experts load_skew favours, which is 0; give load_skew, or leave load_seed out"
        if not self.load_shares:
            return ""
        if self.load_skew:
            return f"load_skew = {self.load_skew} and load_shares both say how tokens choose experts; leave one out"
        kinds, rows, count = {isinstance(each, tuple) for each in self.load_shares}, self._given_rows, len(self._rows)
        if len(kinds) > 1:
            return "load_shares has numbers beside lists; give each expert a number, or each layer with experts a list of them"
        if kinds == {True} and len(rows) != count:
            lists = f"{len(rows)} list{'s' * (len(rows) > 1)}"
            return f"load_shares has {lists}, but {count} layers have experts; give each one, or one list of numbers for all"
        for number, row in enumerate(rows):
            which = f"load_shares[{number}]" if kinds == {True} else "load_shares"
            if len(row) != self.num_experts:
                return f"{which} has {len(row)} numbers, but num_experts = {self.num_experts}; give each expert one"
            if (positive := sum(share > 0 for share in row)) < self.experts_per_token:
                return f"{which} leaves tokens {positive} experts, but experts_per_token = {self.experts_per_token}"
        return ""

    @property
    def _given_rows(self) -> tuple[tuple[float, ...], ...]:
        """The shares that are stated, of each layer with experts or one row for all."""
        rows = tuple(each for each in self.load_shares if isinstance(each, tuple))
        return rows or (tuple(each for each in self.load_shares if not isinstance(each, tuple)),)

    @functools.cached_property
    def _rows(self) -> dict[int, int]:
        """Of each layer with experts, by its number, the first of them whose experts have the same loads, counted from 0."""
        layers = (*filter(self.has_experts, range(self.num_layers)),)
        given, firsts = self._given_rows, dict[tuple[float, ...], int]()
        kinds = ((number,) if self.load_seed else given[min(number, len(given) - 1)] for number in range(len(layers)))
        return {layer: firsts.setdefault(kind, number) for number, (layer, kind) in enumerate(zip(layers, kinds, strict=True))}

    @property
    def load_rows(self) -> tuple[int, ...]:
        """The first layers with their loads."""
        return tuple(dict.fromkeys(self._rows.values())) or (0,)

    def load_row(self, layer: int) -> int:
        """Which of them a layer has; 0 of one without experts."""
        return self._rows.get(layer, 0)

    def run_length(self, sequence_length: int) -> int:
        """The fewest tokens that all experts share out evenly; where a sequence is no multiple of them, or experts have unequal loads by
        intent, as many of it as 256 divides."""
        if not self.num_experts:
            return 1
        fewest = self.num_experts // math.gcd(self.num_experts, self.experts_per_token)
        is_long = self._is_uneven or self.capacity_factor or sequence_length % fewest
        return math.gcd(sequence_length, 256) if is_long else fewest

    def slots_chosen(self, sequence_length: int, row: int = 0) -> Slots:
        """By the shares of experts, and from no more groups of them than a token may use."""
        if not self.num_experts:
            return NO_SLOTS
        run = self.run_length(sequence_length)
        loads = expert_loads(run * self.experts_per_token, self.num_experts, run, self._shares(row))
        if self.limits_groups:
            return slots_in_groups(loads, run, self.expert_groups, self.groups_per_token)
        return Slots(loads, gates.gate(self.gates).choose(loads, run))

    def slots(self, sequence_length: int, row: int = 0) -> Slots:
        """Those that fit in the capacity of experts.  Source: Lepikhin et al. 2020 (arXiv:2006.16668), section 2.2; NVIDIA/Megatron-LM,
        megatron/core/transformer/moe/moe_utils.py (get_capacity, drop_policy)."""
        chosen = self.slots_chosen(sequence_length, row)
        if not self.capacity_factor or not chosen.loads:
            return chosen
        capacity = math.ceil(Fraction(str(self.capacity_factor)) * len(chosen.tokens) / self.num_experts)
        return chosen.within(capacity, padded=self.pad_to_capacity, policy=self.drop_policy)

    @property
    def _is_uneven(self) -> bool:
        return bool(self.load_skew or self.load_shares)

    def _shares(self, row: int) -> tuple[float, ...]:
        """Of tokens, by expert of layers with these loads; () where all have as many."""
        if self.load_skew:
            return zipf(self.num_experts, self.load_skew, *((self.load_seed, row) if self.load_seed else ()))
        return self._given_rows[min(row, len(self._given_rows) - 1)] if self.load_shares else ()

    def small_experts(self, heads: int) -> dict[str, Any]:
        """Four experts, of which a token chooses two at most, of one of two groups where it may not use all."""
        if not self.num_experts:
            return {}
        found: dict[str, Any] = {"num_experts": 4, "experts_per_token": min(self.experts_per_token, 2), "expert_ffn_hidden_size": heads}
        found |= {"shared_ffn_hidden_size": heads} if self.shared_ffn_hidden_size else {}
        found |= {"expert_latent_size": 6} if self.expert_latent_size else {}
        found |= {"expert_groups": 2 * self.limits_groups, "groups_per_token": 1 * self.limits_groups}
        return found

    def small_shares(self, num_layers: int) -> tuple[float | tuple[float, ...], ...]:
        """The shares of four experts, of so many layers that have some: where layers differ, of different ones as long as there are any."""
        rows = [tuple(math.fsum(row[expert::4]) for expert in range(4)) for row in dict.fromkeys(self._given_rows)]
        by_layer = any(isinstance(each, tuple) for each in self.load_shares)
        return tuple(rows[number % len(rows)] for number in range(num_layers)) if by_layer else rows[0] if self.load_shares else ()
