"""How the work is split (Plan), what is trained on (Batch), and what the software does with it (Stack).

Only the fields stand here: legality.py says which combinations are legal, stages.py who holds which layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from parsim.parallel.dimensions import degrees, split


@dataclass(frozen=True, slots=True)
class Batch:
    """One optimizer step's worth of data; sequences are all of one length."""

    global_batch: int  # sequences a step, all replicas together
    sequence_length: int  # tokens
    dtype: str = "bf16"  # of the matmuls: a row of the catalog's dtypes


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to split a step over devices.  The names are those of a scenario file.

    >>> Plan(tensor_parallel=8, pipeline_parallel=8, data_parallel=2).num_devices
    128
    """

    data_parallel: int = 1
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    virtual_pipeline: int = 1  # model chunks a rank
    sequence_parallel: bool = False  # Megatron's, over the tensor-parallel ranks
    micro_batch: int = 1  # sequences
    schedule: str | tuple[str, ...] = "1f1b"  # a name, or the written actions of each pipeline rank
    recompute: str = "none"  # none | selective | full
    recompute_ops: tuple[str, ...] = ()  # ops of a layer, or tags of them, that run again in backward
    recompute_every: int = 1  # of the layers of a stage, each n-th is recomputed
    layers_per_stage: tuple[int, ...] | None = None  # by (virtual) stage; None: the stack's layer_split rule
    gradient_sync: str = "all_reduce"  # all_reduce | master
    rank_order: str = "tp-dp-pp"  # axes from the fastest: neighbours in a node differ along the first
    optimizer: str = "adamw"  # adamw | adamw_8bit | sgd_momentum
    zero_stage: int = 0  # sharded over dp: 1 optimizer state, 2 and gradients, 3 and parameters (FSDP)
    reshard_after_forward: bool = True  # ZeRO 3: parameters are let go after forward, and gathered again for backward
    zero_group: int | None = None  # ranks over which ZeRO shards, replicated over the rest of data_parallel (HSDP); None: all
    offload_optimizer: bool = False  # states and float32 weights lie on the host, which updates
    dimensions: tuple[tuple[str, int], ...] = ()  # degrees of dimensions that have no field here, by name

    @property
    def num_devices(self) -> int:
        """Devices that the plan occupies."""
        return prod(degrees(self).values())

    @property
    def num_stages(self) -> int:
        """Virtual stages: chunks over all pipeline ranks."""
        return self.pipeline_parallel * self.virtual_pipeline

    def num_micro_batches(self, batch: Batch) -> int:
        """Micro_batches that each replica runs in a step."""
        return batch.global_batch // (split(self, "B") * self.micro_batch)


@dataclass(frozen=True, slots=True)
class Stack:
    """A software stack: the switches that decide which kernels run and what the framework holds.

    Structural switches change the Step; the overheads only its price.
    """

    name: str
    attention: str = "fused_softmax"  # unfused | fused_softmax | flash
    fusions: tuple[str, ...] = ()  # of: bias, gelu, dropout_add, gradient_accumulation
    gradient_dtype: str = "fp32"  # fp32 | compute
    tensor_overlap: bool = False  # collectives of tensor parallelism run beside weight-gradient GEMMs
    gradient_overlap: bool = False  # a layer's gradient reduction starts when its last backward ends
    scatter_gather: bool = False  # a stage boundary sends 1/tp a rank and gathers on arrival
    recompute_early_stop: bool = False  # recomputation ends at the last tensor that backward needs
    layer_split: str = "even"  # even | embedding_and_head | remainder_first
    vocab_multiple: int = 128  # the vocabulary is padded to a multiple of this x tensor_parallel
    host_launch_s: float = 0.0  # host seconds a kernel launch: a segment never runs faster than its launches
    sustained_factor: Mapping[str, float] = field(default_factory=dict)  # by accelerator; absent: the accelerator's own
    framework_bytes: float = 0.0  # context, libraries
    communicator_bytes: float = 0.0  # a communicator's buffers, for each axis that is on
    collectives: Mapping[str, str] = field(default_factory=dict)  # algorithm by operation; absent: by size and span
    source: str = ""
