"""Text as nccl-tests prints it, in the layouts of several versions, of runs whose times are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from parsim.calibrate.collective_log import bus_factor

SIZES: Final = tuple(2**power for power in range(10, 31, 2))
_REDOP: Final = {"all_reduce": "sum", "reduce_scatter": "sum"}


def log_text(
    operation: str,
    hosts: Sequence[str],
    seconds: Mapping[int, float],
    *,
    layout: str = "2.13",
    program: str = "",
    device: str = "NVIDIA A100-SXM4-80GB",
) -> str:
    """The output of a run whose ranks lie on these hosts: as of 2.0, without roots and groups; 2.13; or 2.18, which names its program.

    A "?" behind the layout leaves out the line of the command.
    """
    named, layout = not layout.endswith("?"), layout.rstrip("?")
    program = program or {"all_to_all": "alltoall", "p2p": "sendrecv"}.get(operation, operation)
    head = [
        f"# nThread 1 nGpus 1 minBytes {min(seconds)} maxBytes {max(seconds)} step: 2(factor) warmup iters: 5 iters: 20 validation: 1",
        "#",
    ]
    if layout == "2.18":
        head = ["# nccl-tests version 2.18.5 nccl-headers=22809 nccl-library=22809", f"# Collective test starting: {program}_perf", *head]
    elif named:
        head = [f"srun ./build/{program}_perf -b 1K -e 1G -f 4 -g 1", *head]
    group = "" if layout == "2.0" else "Group  0 "
    head.append("# Using devices")
    head += [
        f"#  Rank {rank:2d} {group}Pid {4000 + rank} on {host:>10} device {rank % 8:2d} [0x1b] {device}" for rank, host in enumerate(hosts)
    ]
    head += ["#", "#" + " " * 53 + "out-of-place                       in-place          "]
    error = "error" if layout == "2.0" else "#wrong"
    side = f"time   algbw   busbw  {error}"
    root = "" if layout == "2.0" else "    root"
    redop = "" if layout == "2.0" and operation == "all_gather" else "   redop"
    head += [f"#       size         count      type{redop}{root}     {side}     {side}"]
    head += ["#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)       "]
    tail = ["# Out of bounds values : 0 OK", "# Avg bus bandwidth    : 1.0 ", "#", ""]
    return "\n".join([*head, *(line(operation, len(hosts), size, each, layout) for size, each in seconds.items()), *tail])


def line(operation: str, ranks: int, size: int, seconds: float, layout: str = "2.13") -> str:
    """A line of figures: times of at least four digits, rates of two behind the point."""
    rate = size / seconds / 1e9
    us = f"{seconds * 1e6:.2f}" if seconds < 1e-4 else f"{seconds * 1e6:.1f}" if seconds < 1e-2 else f"{seconds * 1e6:.0f}"
    figures = f"{us:>9} {rate:7.2f} {bus_factor(operation, ranks) * rate:7.2f}"
    redop = "" if layout == "2.0" and operation == "all_gather" else f"{_REDOP.get(operation, 'none'):>8}"
    root = "" if layout == "2.0" else "      -1"
    wrong = "  0e+00" if layout == "2.0" else "      0"
    in_place = "    N/A" if operation in ("all_to_all", "p2p") else wrong
    return f"{size:12d}  {size // 4:12d}  {'float':>8}{redop}{root}  {figures}{wrong}  {figures}{in_place}"
