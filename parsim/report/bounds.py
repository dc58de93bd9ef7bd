"""What bounds a kernel or a collective, and the constants that say so, each with its source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
from msgspec.structs import replace

from parsim import catalog, units
from parsim.cluster.accelerator import Accelerator, KernelLaw
from parsim.cluster.cluster import Cluster, Fabric, Node
from parsim.cluster.efficiency import SCAN_SHARE, alignment, attention_hbm_s, masked_share
from parsim.cluster.network import collective_s, leaves_node
from parsim.cluster.price import Price, binding_link_of, explain_collective
from parsim.cluster.sites import site_link_of
from parsim.collectives import ChunkTable, find
from parsim.collectives.alpha_beta import alpha_beta_s
from parsim.cost.buckets import Held
from parsim.cost.cost_model import CostModel
from parsim.cost.count import flops, hbm_bytes, head_widths
from parsim.cost.gemms import GROUPED_EXPONENT, gemm_alignment, gemm_factor, gemm_shape, plain_gemm_s
from parsim.cost.permutes import are_batched, sorts
from parsim.cost.scan import scan_seconds
from parsim.cost.sizes import Sizes
from parsim.cost.timing import compute_s, num_passes
from parsim.cost.work import Work, law_name, works_of
from parsim.model.op_kinds import COSTS
from parsim.step.task import HOST, Compute, is_launched

Lines = Iterator[tuple[str, str]]
_KINDS: Final[Mapping[type, str]] = {Accelerator: "accelerators", Node: "nodes", Fabric: "fabrics"}
_UNSTATED = "stated in the scenario, without a source"


def kernel_bound(task: Compute, sizes: Sizes, model: CostModel, held: Held = None) -> Lines:
    """What bounds a kernel: compute, HBM or launch, whichever is longest alone; then its constants."""
    device = model.cluster.node.accelerator
    if task.stream == HOST:
        node, moved = model.cluster.node, units.format(int(hbm_bytes(task, sizes, held)[0]), "bytes")
        share = units.format(node.host_memory_bytes_per_s / node.devices_per_node, "bytes/s")
        yield "bound by", f"memory of the host: {moved} at {share}, the share of one of {node.devices_per_node} devices"
        return
    if law_name(task) in model.kernel_laws:
        yield from own_law_bound(device, law_name(task), works_of(task, sizes, held))
        return
    family, dtype = COSTS[task.kernel].family, model.multiplies_in(task.dtype)
    work, traffic = int(flops(task, sizes, held)[0]), int(hbm_bytes(task, sizes, held)[0])
    if family == "gemm":
        yield from gemm_bound(task, sizes, model, device, dtype)
        return
    if family == "elementwise":
        yield from elementwise_bound(task, sizes, model, held)
        return
    if family == "scan":
        yield from scan_bound(task, sizes, model, device, dtype)
        return
    law, width = device.attention, int(head_widths(task, sizes)[0][0])
    flash = model.flash
    backward = law.backward_rate * flash.backward if task.kernel.endswith("_grad") else flash.forward
    reached, peak = float(np.interp(width, *np.asarray(law.efficiency_by_head_dim).T)) * backward, device.peak(dtype)
    parts = {
        "compute": work / (peak * reached * model.sustained),
        "HBM": float(attention_hbm_s(device, traffic)),
        "launch": law.launch_s,
    }
    yield "bound by", _longest(parts)
    yield "peak", f"{units.format(peak, 'FLOP/s')} in {dtype}, dense [{cite(device, 'peak')}]"
    yield "reached", f"{reached:.3g} of the peak; {law.memory_efficiency:.3g} of HBM; {_s(law.launch_s)} to launch [{cite(device, family)}]"
    yield "kernel", f"{flash.forward:.3g} of the law's rate forward, {flash.backward:.3g} backward [{flash.source}]"
    yield from _share_in_training(model, device)


def scan_bound(task: Compute, sizes: Sizes, model: CostModel, device: Accelerator, dtype: str) -> Lines:
    """What bounds the kernels of a scan; their compute and their memory are priced alone, the other at no cost."""
    traffic, keep = hbm_bytes(task, sizes), model.sustained

    def seconds(**changes: Any) -> float:
        return float(np.ravel(scan_seconds(task, traffic, sizes, replace(device, **changes), dtype, keep))[0])

    free: tuple[dict[str, Any], dict[str, Any]] = {"hbm_bandwidth_bytes_per_s": math.inf}, {"peak_flops_per_s": {dtype: math.inf}}
    launch = seconds(**free[0], **free[1])
    parts = {part: seconds(**changes) - launch for part, changes in zip(("compute", "HBM"), free, strict=True)}
    yield "bound by", _longest({**parts, "launch": launch})
    yield "peak", f"{units.format(device.peak(dtype), 'FLOP/s')} in {dtype}, dense [{cite(device, 'peak')}]"
    yield "reached", f"{SCAN_SHARE:.3g} of the rate of flash attention, and of HBM [state-spaces/mamba, issue 904]"
    yield from _share_in_training(model, device)


def gemm_bound(task: Compute, sizes: Sizes, model: CostModel, device: Accelerator, dtype: str) -> Lines:
    """What bounds a matrix multiplication; its compute and its memory are priced alone, the other at no cost."""
    is_batch = are_batched(sizes, model)
    grouped = device.grouped_gemm if task.kernel == "grouped_gemm" and not is_batch else None
    law, peak, keep = grouped.law_in(dtype) if grouped else device.gemm_law(dtype), device.peak(dtype), model.sustained_in(dtype)
    free: dict[str, dict[str, Any]] = {"compute": {"hbm_bandwidth_bytes_per_s": math.inf}, "HBM": {"peak_flops_per_s": {dtype: math.inf}}}
    alone = {part: plain_gemm_s(task, sizes, replace(device, **changes), dtype, keep, is_batch=is_batch) for part, changes in free.items()}
    parts = {part: float(np.ravel(seconds)[0]) - law.launch_s for part, seconds in alone.items()}
    yield "bound by", _longest({**parts, "launch": law.launch_s})
    yield "peak", f"{units.format(peak, 'FLOP/s')} in {dtype}, dense [{cite(device, 'peak')}]"
    reached = f"{law.efficiency:.3g} of the peak in full tiles; {law.memory_efficiency:.3g} of HBM; {_s(law.launch_s)} to launch"
    figure = "grouped_gemm" if grouped else "gemm_by_dtype" if dtype in device.gemm_by_dtype else "gemm"
    yield "reached", f"{reached} [{cite(device, figure)}]"
    share_of = partial(masked_share, grouped) if grouped else partial(alignment, device)
    rate = float(np.ravel(gemm_alignment(task, gemm_shape(task, sizes), share_of))[0])
    if rate < 1:
        yield "alignment", f"{rate:.2g} of that rate is left by odd widths [{cite(device, 'grouped_gemm' if grouped else 'alignment')}]"
    full_s = int(flops(task, sizes)[0]) / (peak * law.efficiency * rate * keep)
    tiles = f"{full_s / parts['compute']:.3g} of that rate is left by the edges, waves and starts of tiles"
    yield "tiles", f"{tiles}{', and by those that two experts share' if grouped else ''} [{cite(device, figure if grouped else 'gemm')}]"
    if (factor := gemm_factor(task)) != 1:
        yield "slower", f"x {factor} for adding into the gradient, priced as a plain GEMM otherwise [GEMM tables of SimuMax]"
    if task.kernel == "grouped_gemm" and not grouped and not is_batch:
        joined = f"compute and HBM joined by the exponent {min(GROUPED_EXPONENT, law.exponent):.3g}, not {law.exponent:.3g}"
        yield "experts", f"a kernel each, none of which hides another's bytes: {joined} [grouped GEMM tables of SimuMax]"
    yield from _share_in_training(model, device, dtype)


def _share_in_training(model: CostModel, device: Accelerator, dtype: str = "") -> Lines:
    own = model.tuned_as or dtype in model.stack.sustained_factor
    source = model.stack.source or _UNSTATED if own else cite(device, "sustained_factor")
    yield "sustained", f"{model.sustained_in(dtype):.3g} of that rate in training [{source}]"
    if (left := device.kept_by_limit) < 1:
        limit = f"{device.power_limit_w:g} of {device.tdp_w:g} W leave {left:.3g} of it, which is counted in"
        yield "power", f"{limit}: their ratio to the power {device.power_exponent:.3g} [{cite(device, 'power_exponent')}]"
    yield _bandwidth(device)


def elementwise_bound(task: Compute, sizes: Sizes, model: CostModel, held: Held = None) -> Lines:
    """What bounds a kernel that only moves bytes, or kernels; their memory is what they take beyond what they take where it is free."""
    device = model.cluster.node.accelerator
    free = replace(model.cluster.node, accelerator=replace(device, hbm_bandwidth_bytes_per_s=math.inf))
    priced = model, replace(model, cluster=replace(model.cluster, node=free))
    whole_s, launch_s = (float(np.ravel(compute_s(task, sizes, each, held))[0]) for each in priced)
    yield "bound by", _longest({"HBM": whole_s - launch_s, "launch": launch_s})
    law = device.elementwise
    kernels = round(launch_s / law.launch_s) if law.launch_s else int(is_launched(task))
    each = f"{kernels} kernels, each {_s(law.launch_s)}" if kernels > 1 else _s(law.launch_s)
    start = f"{each} to launch" if kernels else "no launch of its own"
    yield "reached", f"{law.memory_efficiency:.3g} of HBM; {start} [{cite(device, 'elementwise')}]"
    if sorts(task, model) and not are_batched(sizes, model):
        yield "rows", f"{law.gathers:.3g} of HBM where they are fetched by an index and written, beside the pass that repeats or sums them"
    if (passes := num_passes(task, model)) != 1:
        yield (
            "passes",
            f"{passes:.3g} times these bytes are moved: no kernel fuses what several do [derived: what frameworks run one after another]",
        )
    yield _bandwidth(device)


def own_law_bound(device: Accelerator, name: str, calls: Iterable[Work]) -> Lines:
    """What bounds equal or unequal calls of a kernel that was measured by itself: the largest summand of its law."""
    law, every = device.kernels[name], list(calls)

    def total_s(**kept: Any) -> float:
        free = KernelLaw(**kept)
        return float(sum(float(np.ravel(each.seconds(free))[0]) for each in every))

    parts = {
        "the calls themselves": total_s(call_s=law.call_s, matrix_s=law.matrix_s),
        "compute": total_s(flops_per_s=law.flops_per_s),
        "memory": total_s(bytes_per_s=law.bytes_per_s, written_bytes_per_s=law.written_bytes_per_s, knees=law.knees),
    }
    yield "bound by", _longest(parts)
    rates = {"FLOP/s": law.flops_per_s, "bytes/s": law.bytes_per_s}
    reached = [f"{_s(law.call_s)} a call", *(f"at most {units.format(rate, unit)}" for unit, rate in rates.items() if math.isfinite(rate))]
    busy = "; while all devices of the node work, by another law" if name in device.busy_kernels else ""
    yield "reached", f"{', '.join(reached)}, as `{name}` was measured by itself{busy} [{cite(device, 'kernels')}]"


def collective_bound(model: CostModel, price: Price, elements: int, itemsize_bytes: int, chunks: ChunkTable) -> Lines:
    """What bounds a collective: by latency and bandwidth where the stack names its algorithm, else by fitted laws in a ring's bytes."""
    operation, num_ranks, stride = price.operation, int(price.num_ranks[0]), int(price.stride[0])
    name = model.stack.collectives.get(operation)
    if name is None:
        yield from link_bound(price)
        yield from _wait_lines(price)
        return
    algorithm = find(operation, name)
    wire_bytes = int(np.ravel(algorithm.busiest_elements(operation, num_ranks, elements, chunks))[0]) * itemsize_bytes
    group: dict[str, Any] = {"num_ranks": num_ranks, "stride": stride, "reach": price.reach}
    empty_s = alpha_beta_s(model.cluster, operation, name, elements=0, itemsize_bytes=itemsize_bytes, **group)
    latency_s = float(np.ravel(empty_s)[0])
    whole_s = float(price.seconds[0]) - _waits_s(price)
    link = binding_link_of(price)
    yield "algorithm", f"{name}, as the stack says: priced by latency and bandwidth, not by the fitted laws"
    yield "bound by", f"{'latency' if 2 * latency_s > whole_s else link} (latency {_s(latency_s)}, bytes {_s(whole_s - latency_s)})"
    steps = int(algorithm.num_steps(operation, num_ranks))
    yield "because", f"{steps} steps; {units.format(wire_bytes, 'bytes')} through the busiest port"
    yield from _wait_lines(price)


def message_bound(price: Price) -> Lines:
    """What bounds a message to a neighbouring stage, by the slowest hop of the chain."""
    node, fabric = price.cluster.node, price.cluster.fabric
    if fabric is None or not leaves_node(price.cluster, price.stride, price.num_ranks)[0]:
        yield "bound by", f"node link ({node.link.name}) [{cite(node, 'p2p_efficiency') or node.link.source}]"
    elif price.between_sites is not None:
        link = site_link_of(price.cluster)
        yield "bound by", f"{link.name}: {units.format(link.bandwidth_bytes_per_s, 'bytes/s')} a site, {_s(link.latency_s)} [{link.source}]"
    else:
        yield "bound by", f"NIC ({fabric.nic.name}) [{cite(fabric, 'p2p_efficiency')}]"
    yield from _wait_lines(price)


def _wait_lines(price: Price) -> Lines:
    """What a communication waits for before it begins, where anything is."""
    if (waits_s := _waits_s(price)) > 0:
        yield "waits", f"{_s(waits_s)} of its time, whatever it sends: for its host (message_launch of the stack), or between sites"


def _waits_s(price: Price) -> float:
    return float(np.ravel(price.waits_s)[0]) if price.seconds[0] > 0 else 0.0


def link_bound(price: Price) -> Lines:
    """What bounds a collective: the node link, the NIC, or its start; then how the group lies and what it reaches."""
    cluster, operation, num_ranks, stride = price.cluster, price.operation, int(price.num_ranks[0]), int(price.stride[0])
    link, site = binding_link_of(price), cluster.site_link.name if cluster.site_link else ""
    if link:
        place = {cluster.node.link.name: "node link", site: "between sites"}.get(link, "leaf" if link.endswith(" uplink") else "NIC")
        tiny_s = collective_s(cluster, operation, 1, int(price.num_steps[0]), num_ranks, stride, reach=price.reach)
        start = float(np.ravel(tiny_s)[0]) > float(price.seconds[0]) / 2
        yield "bound by", f"launch: the start and steps of the collective, before {link}" if start else f"{place} ({link})"
    cited = replace(price, cluster=_cited_by_law(cluster, operation))
    yield "because", "\n".join(line.strip() for line in explain_collective(cited).splitlines())


def _cited_by_law(cluster: Cluster, operation: str) -> Cluster:
    """The cluster with the sources of the laws of a collective alone, for a text about it."""
    node, fabric, exchange = cluster.node, cluster.fabric, operation == "all_to_all"
    node = replace(node, source=cite(node, "all_to_all" if exchange and node.all_to_all else "law"))
    if fabric is not None:
        ring = "ring_efficiency" if operation != "all_reduce" and fabric.ring_efficiency is not None else "efficiency"
        fabric = replace(fabric, source=cite(fabric, "all_to_all" if exchange and fabric.all_to_all else ring))
    return replace(cluster, node=node, fabric=fabric)


def cite(row: Accelerator | Node | Fabric, figure: str) -> str:
    """The source of a figure of hardware: its own where it is a catalog row as it stands there, else all that is stated."""
    from parsim.scenario import rows

    kind = _KINDS[type(row)]
    same: Any = rows.read(kind, row.name) if row.name in catalog.names(kind) else None
    if isinstance(row, Node) and isinstance(same, Node):  # a part of its devices is as sourced as all of them
        same = replace(same, devices_per_node=row.devices_per_node, num_nics=row.num_nics)
    return str(catalog.row(kind, row.name)["source"].get(figure, "")) if same == row else row.source or _UNSTATED


def _bandwidth(device: Accelerator) -> tuple[str, str]:
    return "HBM peak", f"{units.format(device.hbm_bandwidth_bytes_per_s, 'bytes/s')} [{cite(device, 'hbm_bandwidth')}]"


def _longest(parts: dict[str, float]) -> str:
    name = max(parts, key=lambda each: parts[each])
    return f"{name} ({', '.join(f'{each} {_s(seconds)}' for each, seconds in parts.items())}, each alone)"


def _s(seconds: float) -> str:
    return units.format(seconds, "s")
