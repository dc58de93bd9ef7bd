"""Which switches change the Step itself.  Plans that share them share one Step, whatever their degrees."""

from __future__ import annotations

from dataclasses import dataclass

from parsim.model.dims import FIXED_ITEMSIZE_BYTES, FLOAT32
from parsim.model.spec import Architecture, ModelSpec
from parsim.parallel.mesh import AXES
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.step.optimizer import OPTIMIZERS

_FLOAT32_BYTES = FIXED_ITEMSIZE_BYTES[FLOAT32]


@dataclass(frozen=True, slots=True)
class Structure:
    """All structural switches of a plan.  An axis of degree 1 is off."""

    axes: tuple[str, ...]
    sequence_parallel: bool
    recompute: str
    early_stop: bool
    gradient_sync: str
    zero_stage: int
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

        >>> tiny = ModelSpec("tiny", 2, 8, 32, 2, 2, 4, 64, 16)
        >>> Structure.of(tiny, Batch(4, 16), Plan(data_parallel=2), Stack("any")).axes
        ('dp',)
        """
        degrees = {"pp": plan.pipeline_parallel, "dp": plan.data_parallel, "tp": plan.tensor_parallel}
        axes = tuple(axis for axis in AXES if degrees[axis] > 1)
        sharded = "tp" in axes and plan.sequence_parallel
        divides = batch.sequence_length % plan.tensor_parallel == 0
        return cls(
            axes=axes,
            sequence_parallel=sharded,
            recompute=plan.recompute,
            early_stop=stack.recompute_early_stop,
            gradient_sync=plan.gradient_sync if "dp" in axes else "all_reduce",
            zero_stage=plan.zero_stage if "dp" in axes else 0,
            optimizer=plan.optimizer,
            rank_order=plan.rank_order,
            attention=stack.attention,
            architecture=model.architecture,
            tied=model.tied_embedding,
            fusions=tuple(sorted(stack.fusions)),
            tensor_overlap=stack.tensor_overlap and "tp" in axes,
            gradient_overlap=stack.gradient_overlap and "dp" in axes and plan.gradient_sync == "all_reduce",
            scatter_gather=stack.scatter_gather and {"tp", "pp"} <= set(axes) and not sharded and divides,
            master_weights=batch.dtype not in ("fp32", "tf32"),
        )

    @property
    def state_bytes(self) -> int:
        """Bytes an element that the optimizer keeps: its states, and the float32 weights beside narrower ones."""
        return OPTIMIZERS[self.optimizer].state_bytes + (_FLOAT32_BYTES if self.master_weights else 0)

    @property
    def per_pass(self) -> bool:
        """Whether gradients are scattered, and parameters gathered, in every pass through a segment (ZeRO 2 and 3)."""
        return self.zero_stage >= 2

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the parallelism dimensions that are on."""
        names = {"pp": "pipeline_parallel", "dp": "data_parallel", "tp": "tensor_parallel"}
        on = tuple(names[axis] for axis in self.axes)
        return (*on, "sequence_parallel") if self.sequence_parallel else on
