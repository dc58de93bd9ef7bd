"""The models that are trained to calibrate: small, unlike one another, and between them with every kernel that a model may need.

Their widths are chosen beside those that people use, so that a prediction of a usual model is no memory of a measurement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from msgspec.structs import replace

from parsim.cluster.cluster import Cluster
from parsim.cost.cost_model import CostModel
from parsim.executor.job import RunRequest
from parsim.model.families.mlp import MlpSpec
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.scenario.types import Training

DTYPE: Final = "fp32"  # what numpy multiplies fast, and the narrowest that it holds as it is charged
PRECISION: Final = "float32"
_SOURCE: Final = "chosen for calibration"


def _decoder(hidden: int, heads: int, vocabulary: int, dropout: float = 0.0) -> TransformerSpec:
    return TransformerSpec(
        name="decoder", num_layers=1, hidden_size=hidden, ffn_hidden_size=4 * hidden, num_heads=heads, num_kv_heads=heads,
        head_dim=hidden // heads, vocab_size=vocabulary, max_positions=512, dropout=dropout, source=_SOURCE,
    )  # fmt: skip


def _llama(hidden: int, heads: int) -> TransformerSpec:
    ffn = hidden * 8 // 3 // 8 * 8
    return TransformerSpec(
        name="gated decoder", num_layers=1, hidden_size=hidden, ffn_hidden_size=ffn, num_heads=heads, num_kv_heads=heads // 2,
        head_dim=hidden // heads, vocab_size=360, max_positions=512, activation="swiglu", norm="rms_norm", positions="rotary",
        bias=False, qkv_bias=False, dropout=0.0, tied_embedding=False, source=_SOURCE,
    )  # fmt: skip


def _mixture(hidden: int, heads: int, experts: int) -> TransformerSpec:
    return replace(_llama(hidden, heads), name="mixture", num_experts=experts, experts_per_token=2, expert_ffn_hidden_size=2 * hidden)


def _encoder(hidden: int, heads: int, head: str) -> TransformerSpec:
    both_ways = replace(_decoder(hidden, heads, 440), name="encoder", causal=False, norm_last=True, num_token_types=2)
    return replace(both_ways, head=head, tied_embedding=head == "masked_token")


def _mlp(hidden: int, ffn: int, activation: str, dropout: float) -> MlpSpec:
    return MlpSpec(
        name="mlp",
        num_layers=1,
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        num_features=72,
        num_labels=10,
        activation=activation,
        dropout=dropout,
        source=_SOURCE,
    )


# Model, micro_batch [sequences], sequence length [tokens], attention of the stack, optimizer.  Every kernel comes in three sizes or more.
_CASES: Final = (
    (_decoder(56, 2, 264), 4, 40, "fused_softmax", "adamw"),
    (_decoder(96, 3, 520), 4, 72, "fused_softmax", "adamw"),
    (_decoder(160, 5, 744), 2, 136, "fused_softmax", "adamw"),
    (_decoder(232, 4, 392), 2, 88, "fused_softmax", "adamw"),
    (_decoder(344, 4, 1160), 2, 40, "fused_softmax", "adamw"),
    (_decoder(448, 7, 904), 1, 104, "fused_softmax", "adamw"),
    (_decoder(576, 9, 328), 1, 72, "fused_softmax", "adamw"),
    (_decoder(56, 2, 136, dropout=0.1), 2, 24, "unfused", "sgd_momentum"),
    (_decoder(104, 4, 200, dropout=0.1), 2, 72, "unfused", "sgd_momentum"),
    (_decoder(208, 4, 200, dropout=0.1), 1, 152, "unfused", "sgd_momentum"),
    (_decoder(72, 3, 136), 2, 40, "flash", "adamw"),
    (_decoder(136, 4, 200), 2, 88, "flash", "adamw"),
    (_decoder(216, 4, 200), 1, 168, "flash", "adamw"),
    (_llama(88, 4), 2, 40, "fused_softmax", "adamw"),
    (_llama(176, 4), 2, 88, "fused_softmax", "adamw"),
    (_llama(288, 6), 1, 104, "fused_softmax", "adamw"),
    (_encoder(64, 4, "masked_token"), 2, 40, "fused_softmax", "adamw"),
    (_encoder(192, 3, "masked_token"), 2, 104, "fused_softmax", "adamw"),
    (_encoder(56, 2, "text"), 8, 24, "fused_softmax", "adamw"),
    (_encoder(120, 5, "text"), 24, 8, "fused_softmax", "adamw"),
    (_encoder(312, 6, "text"), 1, 64, "fused_softmax", "adamw"),
    (_encoder(40, 2, "token"), 2, 24, "unfused", "adamw"),
    (_encoder(168, 3, "token"), 4, 40, "unfused", "adamw"),
    (_encoder(248, 4, "token"), 1, 120, "unfused", "adamw"),
    (_mlp(112, 232, "relu", 0.0), 24, 1, "fused_softmax", "adamw"),
    (_mlp(200, 376, "relu", 0.0), 96, 1, "fused_softmax", "adamw"),
    (_mlp(472, 600, "relu", 0.0), 136, 1, "fused_softmax", "adamw"),
    (_mlp(72, 152, "squared_relu", 0.1), 40, 1, "fused_softmax", "sgd_momentum"),
    (_mlp(264, 488, "squared_relu", 0.1), 104, 1, "fused_softmax", "sgd_momentum"),
    (_mlp(360, 904, "squared_relu", 0.1), 168, 1, "fused_softmax", "sgd_momentum"),
    (_llama(120, 4), 2, 56, "fused_softmax", "adamw"),
    (_llama(224, 4), 1, 72, "fused_softmax", "adamw"),
    (_llama(336, 6), 1, 48, "fused_softmax", "adamw"),
    (_mixture(72, 4, 4), 2, 40, "fused_softmax", "adamw"),
    (_mixture(104, 4, 8), 2, 56, "fused_softmax", "adamw"),
    (_mixture(136, 4, 8), 2, 72, "fused_softmax", "adamw"),
    (_mixture(152, 4, 4), 1, 120, "fused_softmax", "adamw"),
    (_mixture(200, 4, 4), 1, 104, "fused_softmax", "adamw"),
    (_mixture(248, 4, 8), 1, 88, "fused_softmax", "adamw"),
)


def runs(cluster: Cluster, itemsize_bytes: Mapping[str, int]) -> Iterator[RunRequest]:
    """A run for each model, of steps of two micro_batches; the cluster is any: its prices are not used."""
    for number, (model, micro_batch, sequence, attention, optimizer) in enumerate(_CASES):
        stack = Stack(
            "numpy",
            attention=attention,
            vocab_multiple=8,
            fusions=("gradient_accumulation", "loss_in_place", "rms_norm", "swiglu") if number % 2 else (),
        )
        prices = CostModel(cluster, stack, Batch(2 * micro_batch, sequence, DTYPE))
        plan = Plan(micro_batch=micro_batch, optimizer=optimizer)
        yield RunRequest(model, prices, plan, itemsize_bytes, 0, 1, training=Training(), precision=PRECISION, clocks=False)
