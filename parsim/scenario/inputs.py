"""The rows of inputs: what a run reads, by how many hands.  What their figures mean stands in parsim.scenario.feeding."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from parsim.scenario.disturbance import LEAST_CV
from parsim.scenario.feeding import DEVICE, REPLICA, SAMPLE, TOKEN, Input
from parsim.scenario.fields import Natural, complaint
from parsim.scenario.hardware import ROW_FILE
from parsim.scenario.inline import Bytes, InlineRow, NameOrRow, Rate
from parsim.scenario.storage import PerSecond
from parsim.scenario.tree import Place

_PER_WHAT: Any = Literal[TOKEN, SAMPLE]
_READERS: Any = Literal[REPLICA, DEVICE]


def _drawable(jitter: float) -> float:
    if 0 < jitter < LEAST_CV:
        raise complaint(f"must be 0 or at least {LEAST_CV:.4g}, below which no clock can tell, not {jitter}")
    return jitter


class InputRow(InlineRow):
    """What a run reads."""

    kind: ClassVar[str] = "inputs"
    place: ClassVar[str | None] = "input"
    form: ClassVar[Any] = Input
    hints: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("bytes_per_token", "token_bytes", "sample_bytes", "bytes_per_sample", "bytes"), "size"),
        **dict.fromkeys(("num_workers", "workers_per_device", "dataloader_workers", "num_parallel_calls"), "workers"),
        **dict.fromkeys(("prefetch_factor", "prefetch_depth", "prefetch_batches"), "prefetch"),
        **dict.fromkeys(("shuffle", "shuffle_buffer_size", "buffer_size"), "shuffle_buffer"),
        **dict.fromkeys(("decode", "decode_rate", "images_per_s"), "decode_per_s"),
        **dict.fromkeys(("tokenize", "tokenize_rate", "tokens_per_s"), "tokenize_per_s"),
        **dict.fromkeys(("pcie", "h2d", "host_to_device_bandwidth"), "host_to_device"),
        **dict.fromkeys(("read_size", "chunk_size", "request"), "request_size"),
        **dict.fromkeys(("cpu_cores", "cores_per_node"), "cores"),
    }
    per: _PER_WHAT = Field(description="what sizes and rates are of: a token, or a sample, which is a sequence of the batch")
    size: Bytes = Field(description="the bytes of one as workers have it, before it is decoded")
    device_size: Bytes = Field(description="the bytes of one as it goes to a device")
    compression: Annotated[float, Field(ge=1, le=1000)] = Field(1.0, description="size over what storage holds of it")
    request_size: Bytes | None = Field(None, description="the bytes of a read; those of a sequence where left out")
    requests_in_flight: Natural | None = Field(
        None, description="the reads of a reader that are on their way together; workers where left out"
    )
    decode_per_s: PerSecond | None = Field(None, description="how many a worker decodes a second; none need it where left out")
    tokenize_per_s: PerSecond | None = Field(None, description="how many a worker tokenizes a second; none need it where left out")
    workers: Annotated[int, Field(gt=0, le=10_000)] = Field(2, description="the cores that work for a reader")
    cores: Natural | None = Field(None, description="the cores of a node that its readers share; as many as they want where left out")
    prefetch: Annotated[int, Field(ge=0, le=10_000)] = Field(
        2, description="the batches of a step that may wait behind each stage; 0: nothing is made while a step runs"
    )
    shuffle_buffer: Annotated[int, Field(ge=0, le=1_000_000_000)] = Field(0, description="the sequences held before the first is taken")
    host_to_device: Rate | None = Field(None, description="from a host to a device; as the node's host_link where left out")
    readers: _READERS = Field(REPLICA, description="who reads: a device of each replica, which hands on what it read, or every device")
    jitter: Annotated[float, Field(ge=0, le=3), AfterValidator(_drawable)] = Field(
        0.0, description="the standard deviation of the time that a stage takes for a batch, over its mean"
    )


InputRef = Annotated[str | InputRow, NameOrRow(InputRow, prefix=ROW_FILE)]


def input_faults(sections: Any, value: Mapping[Any, Any]) -> Iterator[tuple[Place, str]]:
    """What is wrong with the input of a file beside its other sections; `value` has those that are at fault themselves, too."""
    if sections.input is not None and value.get("storage") is None:
        yield ("storage",), "missing: say where the input is read from; known: parsim list storage"
