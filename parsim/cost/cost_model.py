"""What a price depends on beside the plan: hardware, software stack, and what is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from parsim.cluster.accelerator import KernelLaw
from parsim.cluster.cluster import Cluster
from parsim.cluster.flash import OWN, FlashKernel, flash_kernel
from parsim.parallel.plan import ANY, Batch, Stack

F = TypeVar("F", str, float)


class CostModel(Struct, frozen=True):
    """Hardware, software stack and batch."""

    cluster: Cluster
    stack: Stack
    batch: Batch

    def on(self, kind: int) -> CostModel:
        """The same on one of the kinds of node that the cluster has, as if all were of that."""
        return replace(self, cluster=self.cluster.kinds[kind]) if self.cluster.groups else self

    @property
    def on_each(self) -> tuple[CostModel, ...]:
        """The same on each of these kinds."""
        return tuple(map(self.on, range(len(self.cluster.kinds))))

    @property
    def sustained(self) -> float:
        """Share of the isolated kernels' rate that training sustains: the stack's, or the accelerator's default; less by a power limit."""
        accelerator, factors = self.cluster.node.accelerator, self.stack.sustained_factor
        return (factors[self.tuned_as] if self.tuned_as else accelerator.sustained_factor) * accelerator.kept_by_limit

    def sustained_in(self, dtype: str) -> float:
        """The share of GEMMs that multiply a dtype: the stack's for it, or that of all kernels."""
        factors, accelerator = self.stack.sustained_factor, self.cluster.node.accelerator
        return factors[dtype] * accelerator.kept_by_limit if dtype in factors else self.sustained

    @property
    def tuned_as(self) -> str:
        """The name by which the stack has a factor for the accelerator: its own, or that of its catalog row; "" where it has none."""
        accelerator = self.cluster.node.accelerator
        return next((name for name in (accelerator.name, accelerator.tuned_as) if name in self.stack.sustained_factor), "")

    @property
    def replayed(self) -> str:
        """What graphs replay on the accelerator, without a call of the host for each kernel: all, around_experts or nothing, ""."""
        return self._of_accelerator(self.stack.graphs, "")

    def _of_accelerator(self, figures: Mapping[str, F], other: F) -> F:
        """What stands there for the accelerator, for that of its catalog row, or for any."""
        accelerator = self.cluster.node.accelerator
        return next((figures[name] for name in (accelerator.name, accelerator.tuned_as, ANY) if name in figures), other)

    @property
    def kernel_laws(self) -> Mapping[str, KernelLaw]:
        """Laws of single kernels that hold: none for a stack that brings its own kernels."""
        return {} if self.stack.own_kernels else self.cluster.node.accelerator.kernels

    @property
    def flash(self) -> FlashKernel:
        """The kernel of flash attention: the one named, else the stack's in that precision where the device has it, else the device's."""
        device = self.cluster.node.accelerator.catalog_row
        asked = (self.stack.flash_of(self.batch.dtype), self.stack.flash, OWN)
        return next(found for kernel in asked if (found := flash_kernel(kernel, device)))

    def multiplies_in(self, role: str) -> str:
        """The dtype of a role of matmuls."""
        return self.batch.recipe.multiplied_in(role)
