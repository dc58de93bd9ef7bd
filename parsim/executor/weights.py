"""What lives on a rank through a step: weights, gradients, optimizer state and totals, whole, flat and padded, or the rank's own part."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from msgspec import Struct

from parsim.cost.buckets import weight_elements
from parsim.executor.calls import narrows_of, told_of_weight
from parsim.executor.job import Copy, Job
from parsim.executor.names import NORM, is_told, own_weights_of, scales_of, suffix, trained_weights_of
from parsim.executor.values import shard
from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT, HEADS, MASTER, PACKED, QUANTISED
from parsim.parallel.optimizer import ANCHOR, OPTIMIZERS, OUTER_OPTIMIZERS
from parsim.step.finish import LARGEST
from parsim.step.gradient import part_of
from parsim.step.packed import DEQUANTISE
from parsim.step.task import HOST, Bucket, Part, Weight
from parsim_kernels import KERNELS, Machine
from parsim_kernels.four_bits import pack
from parsim_kernels.memory import root_of
from parsim_kernels.signature import Array


class Store(Struct, frozen=True):
    """The lasting buffers of one rank."""

    job: Job
    machine: Machine
    number: int
    at: dict[str, int]
    copies: tuple[Copy, ...]

    @property
    def host(self) -> int:
        """The memory of this rank's host, which the machine numbers behind all ranks."""
        return self.number + self.job.num_ranks

    @property
    def memories(self) -> tuple[int, ...]:
        """This rank's, and its host's where anything lies there."""
        return (self.number, self.host)[: 1 + self.job.step.structure.uses_host]

    def prepare(self) -> None:
        """Hold everything that lives through a step."""
        job, structure, gradients = self.job, self.job.step.structure, self._gradients()
        for instance, weight in own_weights_of(self.copies):
            shape = [job.spec.extents[dim] if dim in HEADS else job.extent(dim) for dim in weight.sharding.dims]
            # The copy of a tied weight starts with the same numbers.
            whole = job.values.weight(weight.copy_of or instance, weight.name, weight.initial, shape)
            name = f"{instance}/{weight.name}"
            if weight.packed:
                whole = self._hold_scales(name, weight, whole)
            part = shard(whole, weight.sharding, job.sizes.at(self.at))
            if not (weight.narrow_rows and structure.narrow_alone):
                role = PACKED if weight.packed else structure.parameter_role
                self._hold(name, weight, part, role, self.part_of_parameter(weight))
            if weight.narrow_rows:
                self._hold_narrow(name, weight, part)
            if not weight.trained:
                continue
            if structure.gradients_last:
                self._hold(f"{instance}/d_{weight.name}", weight, next(gradients), GRADIENT, self.lasting_part("gradients"))
            if structure.narrow_gradients:
                self.machine.hold(self.number, f"{instance}/{part_of(weight.name)}", self.zeros(weight), job.itemsize(COMPUTE))
            updated = self.own_part(weight, part) if structure.zero_stage else part
            if structure.is_served:
                continue
            if structure.master_weights or structure.offload:
                self.machine.hold(self.host if structure.offload else self.number, f"{name}.master", updated.copy(), job.itemsize(MASTER))
            for state, itemsize in OPTIMIZERS[structure.optimizer].state_sizes(job.itemsize(MASTER)):
                self.machine.hold(self.host if structure.uses_host else self.number, f"{name}.{state}", np.zeros_like(updated), itemsize)
            for state in OUTER_OPTIMIZERS[structure.apart.outer_optimizer].states if structure.apart else ():
                first = updated.copy() if state == ANCHOR else np.zeros_like(updated)
                self.machine.hold(self.number, f"{name}.{state}", first, job.itemsize(MASTER))
            for role in structure.host_gradients:
                self.machine.hold(self.host, f"{name}.{role}", np.zeros_like(updated), job.itemsize(role))
        for instance, segment in self.copies:
            for each in segment.sums:
                shape = [job.extent(dim) for dim in each.dims]
                self.machine.hold(self.number, f"{instance}/{each.name}", np.zeros(shape), job.itemsize(FLOAT32))
        self.machine.hold(self.number, NORM, np.zeros(()), job.itemsize(FLOAT32))

    @property
    def host_bytes(self) -> int:
        """The most that this rank has kept on its host."""
        return self.machine.ledgers[self.host].peak_bytes if self.job.step.structure.uses_host else 0

    def hold_gradient(self, name: str, weight: Weight, part: Part) -> None:
        """Zeros for a gradient that does not last, with a view of a rank's own part where that has no buffer of its own."""
        self._hold(name, weight, self.zeros(weight), GRADIENT, part, own=not self.job.step.structure.scatters)

    def hold_temporary(self, name: str, weight: Weight, like: Bucket) -> None:
        """Zeros in a weight's part of a bucket."""
        self._hold(name, weight, self.zeros(weight), like.dtype, like.part)

    def lasting_part(self, role: str) -> Part:
        """The part of weights, or of their gradients, that lasts at the plan's ZeRO stage (Rajbhandari et al. 2020, section 5)."""
        stage, whole_until = self.job.step.structure.zero_stage, {"parameters": 3, "gradients": 2}[role]
        return "whole" if not stage else "padded" if stage < whole_until else "shard"

    def part_of_parameter(self, weight: Weight) -> Part:
        """The part of a weight that lasts: nothing is padded for the sake of gradients that are not there."""
        part = self.lasting_part("parameters")
        return "whole" if part == "padded" and not weight.trained else part

    def _hold_scales(self, name: str, weight: Weight, whole: Array) -> Array:
        """A matrix in 4 bits, as checkpoints have it, whatever ranks hold of it; its scales have no bytes of their own."""
        job = self.job
        num_matrices = whole.shape[0] if weight.sharding.dims[0] == "E" else 1
        places, *scales = pack(whole, num_matrices, double=job.spec.tuning.double_quantization)
        for each, values in zip(scales_of(name, job), scales, strict=True):
            self.machine.hold(self.number, each, values, 0)
        return places

    def _wide(self, name: str) -> Array:
        """The numbers that a matrix in 4 bits stands for."""
        return KERNELS[DEQUANTISE]([self.machine.get(self.number, each) for each in (name, *scales_of(name, self.job))], {})[0][0]

    def _hold_narrow(self, name: str, weight: Weight, values: Array) -> None:
        """Its layouts, and what their scale follows from where ranks find it together."""
        job, structure, told = self.job, self.job.step.structure, told_of_weight(self.job, weight, self.at)
        gathers, lasting = structure.gathers_narrow, () if structure.casts_shards else structure.lasting_layouts
        layouts, _ = KERNELS["quantise"]((values,), told)
        for layout, narrow in zip(narrows_of(job).layouts, layouts, strict=True):
            if layout in lasting:
                self._hold(name + layout, weight, narrow, QUANTISED, self.part_of_parameter(weight) if gathers else "whole")
        if gathers and weight.trained:
            count = int(weight_elements(weight, "scale", job.sizes.at(self.at))[0])
            (largest,), _ = KERNELS["absmax"]((values,), told) if structure.casts_shards else ((np.zeros(count),), 0)
            largest = largest.astype(job.values.precision).reshape((count,) if count > 1 else ())
            self.machine.hold(self.number, name + LARGEST, largest, job.itemsize(FLOAT32))

    def _hold(self, name: str, weight: Weight, values: Array, dtype: str, part: Part, *, own: bool = True) -> None:
        itemsize = self.job.itemsize(dtype)
        if part == "whole":
            self.machine.hold(self.number, name, values, itemsize)
        elif part == "shard" or not weight.group.axes:
            self.machine.hold(self.number, name + suffix(weight, part), self.own_part(weight, values), itemsize)
        else:
            self.hold_flat(name, weight, values, itemsize, own=own)

    def _gradients(self) -> Iterator[Array]:
        """Zeros for the gradient of each weight, one behind the other in memory, so that a bucket of them is summed where it lies."""
        shapes = [self.shape(weight) for _, weight in trained_weights_of(self.copies)]
        whole, start = np.zeros(sum(map(math.prod, shapes)), self.job.values.precision), 0
        for shape in shapes:
            yield whole[start : start + math.prod(shape)].reshape(shape)
            start += math.prod(shape)

    def shape(self, weight: Weight) -> list[int]:
        """Extents of this rank's shard of a weight."""
        sizes = self.job.sizes.at(self.at)
        return [int(sizes.local(weight.sharding, dim)[0]) for dim in weight.sharding.dims]

    def zeros(self, weight: Weight) -> Array:
        """Zeros in the shape of this rank's shard of a weight."""
        return np.zeros(self.shape(weight), self.job.values.precision)

    def flatten(self, weight: Weight, array: Array) -> tuple[Array, slice]:
        """A weight flattened and padded with zeros to equal parts of its group, and where this rank's own part lies in it."""
        ranks, position = int(self.job.sizes.num_ranks(weight.group)[0]), self.job.mesh.position(self.at, weight.group)
        length = -(-array.size // ranks)
        flat = np.zeros(ranks * length, array.dtype)
        flat[: array.size] = array.reshape(-1)
        return flat, slice(position * length, (position + 1) * length)

    def own_part(self, weight: Weight, array: Array) -> Array:
        """This rank's part of a weight, flattened and padded; all of one that nobody else holds."""
        if not weight.group.axes:
            return array.copy()
        flat, own = self.flatten(weight, array)
        return flat[own].copy()

    def hold_flat(self, name: str, weight: Weight, values: Array, itemsize: int, *, own: bool = True) -> None:
        """Hold a whole weight, or its gradient, as a flat padded buffer and views of it: in its shape, and with `own` of its own part."""
        flat, place = self.flatten(weight, values)
        self.machine.hold(self.number, f"{name}.flat", flat, itemsize)
        self.machine.hold(self.number, name, flat[: values.size].reshape(values.shape), itemsize)
        if own:
            self.machine.hold(self.number, f"{name}.shard", flat[place], itemsize)

    def clear(self) -> None:
        """Zeros in what a step sums: gradients, the loss and the gradient norm."""
        for name in self._sums():
            self.machine.get(self.number, name)[...] = 0

    def _sums(self) -> Iterator[str]:
        part = self.lasting_part("gradients")
        lasting = trained_weights_of(self.copies) if self.job.step.structure.gradients_last else ()
        yield from (f"{i}/d_{w.name}{suffix(w, part)}" for i, w in lasting)
        yield from (f"{instance}/{total.name}" for instance, segment in self.copies for total in segment.totals)
        yield NORM

    def _made_anew(self) -> Iterator[str]:
        """Buffers that are there between steps, and of which each step makes the numbers before it reads them."""
        yield from self._sums()
        structure = self.job.step.structure
        for instance, weight in trained_weights_of(self.copies):
            yield from (f"{HOST}:{instance}/{weight.name}.{role}" for role in structure.host_gradients)
            if structure.narrow_gradients:
                yield f"{instance}/{part_of(weight.name)}"

    def what_lasts(self) -> dict[str, Array]:
        """All that a step finds as the one before has left it, between two steps: by name, what the host keeps behind `host:`.

        Whatever lies in a memory lasts, unless it is known to be made anew; several names of one memory are told once.
        """
        anew, names, arrays = {*self._made_anew()}, dict[int, list[str]](), dict[int, Array]()
        for place, number in zip(("", f"{HOST}:"), self.memories, strict=False):
            for name in self.machine.names(number):
                root = root_of(self.machine.get(number, name))
                names.setdefault(id(root), []).append(place + name)
                arrays[id(root)] = root
        return {min(own): arrays[key] for key, own in sorted(names.items(), key=lambda each: min(each[1])) if anew.isdisjoint(own)}

    def read(self, role: str) -> dict[str, Array]:
        """Copies of all weights, or of their gradients when a step ends: whole, or this rank's part where ZeRO leaves it no more."""
        gradients = role == "gradients"
        shares = self.job.step.structure.zero_stage > 0 if gradients else self.lasting_part(role) == "shard"
        part: Part = "shard" if shares else "whole"
        d = "d_" if gradients else ""
        alone = self.job.step.structure.narrow_alone and not gradients  # then what they are made of
        names = (
            (f"{i}/{w.name}", f"{i}/{w.name}.master" if alone and w.narrow_rows else f"{i}/{d}{w.name}{suffix(w, part)}")
            for i, w in (trained_weights_of(self.copies) if gradients else own_weights_of(self.copies))
            if gradients or is_told(self.job, w)
        )
        steers = [] if gradients else [f"{instance}/{each.name}" for instance, segment in self.copies for each in segment.steers]
        every = (*names, *zip(steers, steers, strict=True))
        packed = set() if gradients else {f"{i}/{w.name}" for i, w in own_weights_of(self.copies) if w.packed}
        return {key: self._wide(name) if key in packed else self.machine.get(self.number, name).copy() for key, name in every}
