"""The rows of storage: where data are read from and checkpoints written to.  What their figures mean stands in parsim.cluster.storage."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import Field, model_validator

from parsim import cluster
from parsim.scenario.fields import Quantity, complaint
from parsim.scenario.hardware import ROW_FILE
from parsim.scenario.inline import Bytes, InlineRow, NameOrRow, Rate, Seconds

PerSecond = Annotated[float, Field(ge=1e-6, le=1e18)]  # far beyond any, and far from where floats end
_READS: Final = ("read_bandwidth", "node_read_bandwidth", "request_bandwidth")  # what bounds the bytes that are read


class StorageRow(InlineRow):
    """A file system, an object store, or the drives of nodes."""

    kind: ClassVar[str] = "storage"
    place: ClassVar[str | None] = "storage"
    form: ClassVar[Any] = cluster.Storage
    hints: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("bandwidth", "read", "read_bw", "throughput", "read_throughput", "read_bytes_per_s"), "read_bandwidth"),
        **dict.fromkeys(("write", "write_bw", "write_throughput", "write_bytes_per_s"), "write_bandwidth"),
        **dict.fromkeys(("bandwidth_per_node", "node_bandwidth", "read_bandwidth_per_node"), "node_read_bandwidth"),
        **dict.fromkeys(("iops", "request_rate", "requests", "metadata_rate"), "requests_per_s"),
        **dict.fromkeys(("size", "capacity_bytes"), "capacity"),
        **dict.fromkeys(("price", "cost", "price_per_tb_month"), "terabyte_month"),
    }
    read_bandwidth: Rate | None = Field(None, description="what all nodes together read; does not bind where left out")
    write_bandwidth: Rate | None = Field(None, description="what all nodes together write; does not bind where left out")
    node_read_bandwidth: Rate | None = Field(None, description="what a node reads; does not bind where left out")
    node_write_bandwidth: Rate | None = Field(None, description="what a node writes; does not bind where left out")
    request_bandwidth: Rate | None = Field(None, description="what one request is read at, once its bytes flow")
    latency: Seconds = Field(0.0, description="until the first byte of a request")
    requests_per_s: PerSecond | None = Field(None, description="the requests that are answered, of all nodes together")
    capacity: Bytes | None = Field(None, description="what it holds; not checked where left out")
    terabyte_month: Annotated[float, Quantity("USD")] | None = Field(None, description="what keeping 1 TB for a month costs")
    local: bool = Field(False, description="whether each node has one of its own, of which all figures are; else all nodes share it")

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        if all(getattr(self, key) is None for key in _READS):
            raise complaint(f"states no rate of reading; give one of {', '.join(_READS)}")
        return self

    def figures(self, name: str) -> dict[str, Any]:
        """The fields of its struct; no byte is half."""
        return {**super().figures(name), "capacity_bytes": None if self.capacity is None else int(self.capacity)}


StorageRef = Annotated[str | StorageRow, NameOrRow(StorageRow, prefix=ROW_FILE)]
