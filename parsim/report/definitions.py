"""What each reported figure means, in a sentence; `parsim explain` prints it beside the value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from parsim.parallel import dimensions

METRICS: Final[Mapping[str, str]] = {
    "step_s": "seconds of one optimizer step: the longest path over all stages, from the first forward to the last update",
    "tokens_per_s": "global_batch x sequence_length / step_s: tokens trained in a second by all devices together",
    "tokens_per_s_per_device": "tokens_per_s / devices",
    "mfu": "model FLOPs / (step_s x devices x dense peak of the matmul dtype); model FLOPs are 6 N + 12 L S w a token, with N weights "
    "without the input embedding, L layers, S tokens a sequence, w = heads x head_dim (Chowdhery et al. 2022, appendix B); "
    "a weight that multiplies features costs 4, since they need no gradient",
    "mfu_causal": "as mfu, with half the attention FLOPs: only the pairs that a causal mask leaves",
    "hfu": "FLOPs that the devices execute, recomputation and padding included / (step_s x devices x dense peak)",
    "peak_bytes": "the largest memory of any device, in issue order as a caching allocator sees it",
    "capacity_bytes": "the device memory that a program can allocate",
    "fits": "whether the peak of every stage is at most the capacity",
    "step_error": "predicted step / measured step - 1",
}

BREAKDOWN: Final[Mapping[str, str]] = {
    "compute": "the busiest stage's compute stream runs kernels of forward and backward",
    **{f"exposed_{axis}": f"it waits for {waits_for}" for axis, waits_for in dimensions.waits().items()},
    "exposed_host": "it waits for gradients to reach the host, or for weights to come back",
    "bubble": "it waits for another stage, which has not sent yet or is still at work",
    "optimizer": "gradient norm, clipping, the update and the cast of the weights, on the device or on its host",
    "other": "it waits for the host to launch kernels",
}

MEMORY: Final[Mapping[str, str]] = {
    "parameters": "weights in the dtype of the matmuls, padding included",
    "gradients": "gradient buffers in the stack's gradient_dtype",
    "optimizer": "Adam's two moments in float32, and the float32 weights where the matmuls use less",
    "activations": "what the micro-batches in flight keep for their backward",
    "transients": "what the forward or backward at the peak needs beyond that",
    "buffers": "communicators of the software stack, and the scalars of loss and gradient norm",
    "framework": "the software stack's context and libraries, as the stack states it",
}


def names() -> tuple[str, ...]:
    """All figures that have a definition."""
    return tuple(dict.fromkeys((*METRICS, *BREAKDOWN, *MEMORY)))
