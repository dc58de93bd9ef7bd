"""What libraries hold on a device beside the tensors of a step: workspaces, placeholders of gradients, the context."""

from __future__ import annotations

from typing import Final

import numpy as np

from parsim.cluster.flash import architecture_of
from parsim.cost.sizes import Ints, Sizes
from parsim.estimator.passes import Stages
from parsim.model.dims import COMPUTE, FLOAT32
from parsim.step.task import Compute, Operand, Weight

_CAST: Final = "logits_cast"
_ENDS: Final = ("embedding", "head")
_NEW: Final = ("Hopper", "Blackwell", "Blackwell Ultra")
_CUBLAS_BYTES: Final = {True: 2**25, False: 2**23 + 2**17}
_ENGINE_BYTES: Final = {True: 2**25, False: 2**22}


def context_bytes(stages: Stages) -> int:
    """The context and libraries of a process."""
    return int(stages.workload.model.stack.framework_bytes)


def placeholder_bytes(stages: Stages) -> Ints:
    """What Transformer Engine hands to autograd in place of gradients that GEMMs add into buffers by themselves, [class, plan].

    One tensor a shape, in the dtype of matmuls, which lasts: of all matrices of a layer, and of one expert.

    Source: NVIDIA/TransformerEngine, transformer_engine/pytorch/module/base.py (get_dummy_wgrad).
    """
    w, structure = stages.workload, stages.workload.step.structure
    found = np.zeros((stages.num_classes, len(w.rows)), dtype=np.int64)
    if not w.model.stack.engine_workspaces or "gradient_accumulation" not in structure.fusions or not structure.gradients_last:
        return found
    for name, segment in w.step.segments.items():
        matrices = [weight for weight in segment.own_weights if weight.trained and weight.name.endswith(".weight")]
        if matrices and name not in _ENDS:
            sizes = w.prices.sizes
            own = np.sum([sizes.elements(each.sharding) // _num_experts(each, sizes) for each in matrices], axis=0)
            found = np.maximum(found, (stages.copies(name) > 0) * (own * sizes.itemsize_bytes[COMPUTE])[w.rows])
    return found


def logit_bytes(stages: Stages) -> tuple[Ints, Ints]:
    """Of the stage that has the head, [class, plan]: the logits of micro-batches that have gone, and the blocks that logits leave.

    A pipeline's buffers keep what its last stage makes until another micro-batch takes the place.  Float32 copies of logits are the largest
    tensors of a step by far: what is smaller is cut from their blocks, which then hold none of them any more.

    Source: Aleph-Alpha/scaling@737f8558, src/scaling/core/nn/parallel_module/parallel_module.py (_execute_loss_fn gets its outputs, and
    nobody takes them), pipeline_schedule/train.py (required_buffer_count: 2 and more); PyTorch, c10/cuda/CUDACachingAllocator.cpp
    (get_free_block, should_split), whose rules tests/compare/blocks.py follows through the passes of that code.
    """
    w, stack, sizes = stages.workload, stages.workload.model.stack, stages.workload.prices.sizes
    elements = np.zeros((stages.num_classes, len(w.rows)), dtype=np.int64)
    for name, segment in w.step.segments.items() if stack.kept_logits or stack.logit_holes else ():
        casts = [task for tasks in segment.phases.values() for task in tasks if isinstance(task, Compute) and task.name == _CAST]
        logits = [each for task in casts for each in task.inputs if isinstance(each, Operand)]
        if logits:  # those of a chunk, where there are chunks
            elements += (stages.copies(name) > 0) * sizes.elements(logits[0].sharding)[w.rows]
    kept, holes = stack.kept_logits * sizes.itemsize_bytes[COMPUTE], stack.logit_holes * sizes.itemsize_bytes[FLOAT32]
    return elements * kept, elements * holes


def _num_experts(weight: Weight, sizes: Sizes) -> Ints:
    return sizes.local(weight.sharding, "E") if "E" in weight.sharding.dims else sizes.zero + 1


def workspace_bytes(stages: Stages) -> int:
    """What GEMM libraries keep as tensors, on the kind of device that needs most.

    A workspace of cuBLAS for each thread that calls it, which are those of forward and backward; one of Transformer Engine, and of each
    stream on which it runs the GEMMs of experts.

    Source: PyTorch, aten/src/ATen/cuda/CUDABlas.cpp (32 MiB on Hopper, else 8 MiB and 128 KiB), CublasHandlePool.cpp (a workspace
    for each handle and stream; a handle a thread); NVIDIA/TransformerEngine, transformer_engine/pytorch/module/base.py
    (get_cublas_workspace_size_bytes: 32 MiB from sm90 on, else 4 MiB; get_multi_stream_cublas_workspace).
    """
    model = stages.workload.model
    stack, large = model.stack, any(architecture_of(kind.node.accelerator.catalog_row) in _NEW for kind in model.cluster.kinds)
    engine = stack.engine_workspaces + stack.expert_workspaces * any("expert_" in name for name in stages.workload.step.segments)
    return stack.blas_workspaces * int(stack.workspace_bytes or _CUBLAS_BYTES[large]) + engine * _ENGINE_BYTES[large]
