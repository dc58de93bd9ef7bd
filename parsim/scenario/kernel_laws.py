"""The rows of an accelerator's laws: matmuls, grouped ones, attention, what only moves bytes, and single kernels."""

from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from parsim import cluster
from parsim.model.op_kinds import COSTS
from parsim.scenario.fields import Fraction, Natural, Quantity, optional
from parsim.scenario.inline import Bytes, LawRow, Rate, Ratio, Seconds

Speed = Annotated[float, Quantity("FLOP/s")]
# Names of laws: a kernel's, or with what follows where it adds into its output or multiplies matrix by matrix.
KERNEL_LAWS: Final = (*COSTS, *(f"{kernel}_add" for kernel in COSTS), "einsum_batched", "einsum_batched_add")


class GemmRow(LawRow):
    """The law of matrix multiplications."""

    form: ClassVar[Any] = cluster.Law
    efficiency: Ratio = Field(description="the share of the peak that large GEMMs reach")
    memory_efficiency: Ratio = Field(description="the share of the HBM bandwidth that GEMMs reach")
    launch: Seconds = Field(description="the seconds of an empty kernel")
    exponent: Annotated[float, Field(ge=1)] = Field(description="how sharply compute and memory time overlap: 1 adds them")
    tile_edge: Annotated[float, Field(ge=0)] = Field(0.0, description="elements of area that an element of a tile's edge costs")
    tile_start: Annotated[float, Field(ge=0)] = Field(0.0, description="elements of k that the start and end of a tile cost")


class GroupedRow(LawRow):
    """The law of a kernel that multiplies the tokens of all experts."""

    efficiency: Ratio = Field(description="the share of the peak that it reaches with many tokens an expert")
    memory_efficiency: Ratio = Field(description="the share of the HBM bandwidth that it reaches")
    launch: Seconds = Field(description="the seconds of an empty kernel")
    exponent: Annotated[float, Field(ge=1)] = Field(description="how sharply compute and memory time overlap: 1 adds them")
    tile_rows: Annotated[int, Field(ge=0)] = Field(0, description="the rows that an expert costs beyond its own: of a tile it shares")
    tile_columns: Annotated[int, Field(ge=0)] = Field(0, description="the widest matrix that is a tile of its own")
    cores: Natural = Field(1, description="the cores of a device among which tokens are split, each of which reads all weights")
    masked: Fraction = Field(1.0, description="the share of the rate where a wider one is no multiple of 128")
    narrow: Ratio | None = Field(None, description="in place of efficiency, of 8 and 4 bits; the same where left out")

    def build(self) -> cluster.GroupedLaw:
        """The law."""
        plain = cluster.Law(self.efficiency, self.memory_efficiency, self.launch, self.exponent)
        return cluster.GroupedLaw(plain, self.tile_rows, self.tile_columns, self.cores, self.masked, self.narrow)


class AttentionRow(LawRow):
    """The law of fused attention."""

    efficiency_by_head_dim: Annotated[dict[Annotated[int, Field(strict=False, gt=0)], Ratio], Field(min_length=1)] = Field(
        description="head_dim: the share of the peak"
    )
    launch: Seconds = Field(description="the seconds of an empty kernel")
    ramp: Annotated[float, Field(ge=0)] = Field(description="the loss by few blocks a multiprocessor")
    memory_efficiency: Ratio = Field(description="the share of the HBM bandwidth")
    backward_rate: Ratio = Field(description="the rate of the backward kernel over the forward's")

    def build(self) -> cluster.AttentionLaw:
        """The law."""
        shares, *others = (each for _, each in self)
        return cluster.AttentionLaw(tuple(sorted(shares.items())), *others)


class ElementwiseRow(LawRow):
    """The law of kernels that only move bytes."""

    form: ClassVar[Any] = cluster.ElementwiseLaw
    memory_efficiency: Ratio = Field(description="the share of the HBM bandwidth")
    launch: Seconds = Field(description="the seconds of an empty kernel")
    gather_efficiency: Ratio | None = Field(None, description="in its place where rows are fetched by an index; the same where left out")

    def build(self) -> cluster.ElementwiseLaw:
        """The law."""
        return cluster.ElementwiseLaw(self.memory_efficiency, self.launch, self.gather_efficiency)


class KneeRow(LawRow):
    """Where a call outgrows a cache."""

    beyond: Bytes = Field(description="the bytes from which it costs more")
    bandwidth: Rate = Field(description="on top, the bytes/s of what lies beyond")

    def build(self) -> tuple[float, float]:
        """Both figures."""
        return float(self.beyond), self.bandwidth


class KernelRow(LawRow):
    """The law of one kernel, measured by itself; a rate left out costs nothing."""

    form: ClassVar[Any] = cluster.KernelLaw
    call: Seconds = Field(description="the seconds of any call, what surrounds the kernel included")
    matrix: Seconds = Field(0.0, description="the seconds of a matrix of a batched product")
    rate: Speed | None = Field(None, description="the FLOP/s")
    bandwidth: Rate | None = Field(None, description="the bytes/s of all that is read and written")
    written_bandwidth: Rate | None = Field(None, description="on top, the bytes/s of what is written")
    knees: Annotated[list[KneeRow], Field(max_length=10)] = optional(list, "where a call outgrows a cache: beyond and bandwidth")
