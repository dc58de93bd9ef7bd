"""Which switches change the Step itself.  Plans that share them share one Step, whatever their degrees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from parsim.model.dims import FIXED_ITEMSIZE_BYTES, FLOAT32
from parsim.model.spec import Architecture, ModelSpec
from parsim.parallel.dimensions import degrees, rules, switched_on
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.step.optimizer import OPTIMIZERS

HOST: Final = "host"  # the axis of what passes between a device and its host
_FLOAT32_BYTES = FIXED_ITEMSIZE_BYTES[FLOAT32]


@dataclass(frozen=True, slots=True)
class Structure:
    """All structural switches of a plan.  An axis of degree 1 is off."""

    axes: tuple[str, ...]  # of degree above 1, outermost first
    dimensions: tuple[str, ...]  # names of those that are on
    recompute: str
    recompute_ops: tuple[str, ...]
    recompute_every: int
    early_stop: bool
    gradient_sync: str
    zero_stage: int
    reshard: bool
    offload: bool
    optimizer: str
    rank_order: str
    attention: str
    architecture: Architecture
    tied: bool
    fusions: tuple[str, ...]
    tensor_overlap: bool
    gradient_overlap: bool
    scatter_gather: bool
    master_weights: bool

    @classmethod
    def of(cls, model: ModelSpec, batch: Batch, plan: Plan, stack: Stack) -> Structure:
        """The switches that this plan, model and software stack throw.

        >>> from parsim.model.transformer import TransformerSpec
        >>> tiny = TransformerSpec("tiny", 2, 8, 32, 2, num_kv_heads=2, head_dim=4, vocab_size=64, max_positions=16)
        >>> Structure.of(tiny, Batch(4, 16), Plan(data_parallel=2), Stack("any")).axes
        ('dp',)
        """
        found = degrees(plan)
        axes, dimensions = tuple(axis for axis in found if found[axis] > 1), switched_on(plan, found)
        stream_is_split = "T" in rules(dimensions)
        divides = batch.sequence_length % plan.tensor_parallel == 0
        return cls(
            axes=axes,
            dimensions=dimensions,
            recompute=plan.recompute,
            recompute_ops=tuple(sorted(plan.recompute_ops)),
            recompute_every=plan.recompute_every if plan.recompute_ops or plan.recompute != "none" else 1,
            early_stop=stack.recompute_early_stop,
            gradient_sync=plan.gradient_sync if "dp" in axes else "all_reduce",
            zero_stage=plan.zero_stage if "dp" in axes else 0,
            reshard=plan.reshard_after_forward or "dp" not in axes or plan.zero_stage < 3,
            offload=plan.offload_optimizer,
            optimizer=plan.optimizer,
            rank_order=plan.rank_order,
            attention=stack.attention,
            architecture=model.architecture,
            tied=model.architecture.tied,
            fusions=tuple(sorted(stack.fusions)),
            tensor_overlap=stack.tensor_overlap and "tp" in axes,
            gradient_overlap=stack.gradient_overlap and "dp" in axes and plan.gradient_sync == "all_reduce",
            scatter_gather=stack.scatter_gather and {"tp", "pp"} <= set(axes) and not stream_is_split and divides,
            master_weights=batch.dtype not in ("fp32", "tf32"),
        )

    @property
    def state_bytes(self) -> int:
        """Bytes an element that the optimizer keeps on the device: its states, and the float32 weights beside narrower ones."""
        if self.offload:
            return 0
        return OPTIMIZERS[self.optimizer].state_bytes + (_FLOAT32_BYTES if self.master_weights else 0)

    @property
    def per_pass(self) -> bool:
        """Whether gradients are scattered, and parameters gathered, in every pass through a segment (ZeRO 2 and 3)."""
        return self.zero_stage >= 2

    @property
    def links(self) -> tuple[str, ...]:
        """What a device sends over: the mesh axes, and the link to its host."""
        return (*self.axes, HOST) if self.offload else self.axes

    def gathers(self, kind: str) -> bool:
        """Whether a forward (F) or backward (B) gathers the parameters it computes with."""
        return self.zero_stage >= 3 and (kind == "F" or self.reshard)

    def releases(self, kind: str) -> bool:
        """Whether gathered parameters are let go after a forward (F) or backward (B) of their segment."""
        return self.zero_stage >= 3 and (kind == "B" or self.reshard)
