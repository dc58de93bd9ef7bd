"""The catalog's hardware rows as structs, by the mechanical rule that their files state; independent of the scenario reader."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

import parsim.catalog
from parsim import catalog, units
from parsim.cluster import (
    Accelerator,
    AllToAllLaw,
    AttentionLaw,
    Cluster,
    CollectiveLaw,
    ElementwiseLaw,
    Fabric,
    FewChannels,
    Law,
    Link,
    Node,
    Protocol,
    SmallMessageLaw,
)

T = TypeVar("T", bound=Struct)
DATA = Path(parsim.catalog.__file__).parent / "data"
SUFFIXES = {
    "_w": "W",
    "_s_per_sqrt_byte": "s/sqrt(bytes)",
    "_flops_per_s": "FLOP/s",
    "_bytes_per_s": "bytes/s",
    "_bytes": "bytes",
    "_s": "s",
}


@cache
def rows(kind: str) -> dict[str, dict[str, Any]]:
    return {name: catalog.row(kind, name) for name in catalog.names(kind)}


def made(type_: type[T], row: dict[str, Any], **given: Any) -> T:
    """A struct of which every field is a key of the row, less the unit that the field's name ends in."""
    values = dict(given)
    for name in type_.__struct_fields__:
        suffix = next((each for each in SUFFIXES if name.endswith(each)), "")
        key = name.removesuffix(suffix)
        if name not in values and key in row:
            value = row[key]
            if suffix and isinstance(value, dict):
                values[name] = {name: units.parse(each, SUFFIXES[suffix]) for name, each in value.items()}
            else:
                values[name] = units.parse(value, SUFFIXES[suffix]) if suffix else value
    used = {name.removesuffix(next((each for each in SUFFIXES if name.endswith(each)), "")) for name in type_.__struct_fields__}
    assert set(row) <= used, set(row) - used
    return type_(**values)


def link(name: str) -> Link:
    return made(Link, {**rows("links")[name], "source": name}, name=name)


def accelerator(name: str) -> Accelerator:
    row = {**rows("accelerators")[name], "source": name}
    attention = dict(row["attention"])
    by_head_dim = tuple(attention.pop("efficiency_by_head_dim").items())
    return made(
        Accelerator,
        row,
        name=name,
        gemm=made(Law, row["gemm"]),
        gemm_by_dtype={dtype: made(Law, law) for dtype, law in row.get("gemm_by_dtype", {}).items()},
        attention=made(AttentionLaw, attention, efficiency_by_head_dim=by_head_dim),
        elementwise=made(ElementwiseLaw, row["elementwise"]),
        hbm_capacity_bytes=int(units.parse(row["hbm_capacity"], "bytes")),
    )


def law(row: dict[str, Any]) -> CollectiveLaw:
    return made(CollectiveLaw, row, small=protocols(row.get("small", [])))


def protocols(listed: list[dict[str, Any]]) -> tuple[Protocol, ...]:
    return tuple(made(Protocol, each) for each in listed)


def node(name: str) -> Node:
    row = {**rows("nodes")[name], "source": name}
    shares = tuple((*map(int, key.split("x")), share) for key, share in row.get("group_share", {}).items())
    units_of = {"host_memory_bandwidth": ("host_memory_bytes_per_s", "bytes/s"), "host_memory_capacity": ("host_memory_bytes", "bytes")}
    host = {field: units.parse(row.pop(key), unit) for key, (field, unit) in units_of.items() if key in row}
    return made(
        Node,
        row,
        **host,
        name=name,
        accelerator=accelerator(row["accelerator"]),
        link=link(row["link"]),
        host_link=link(row["host_link"]),
        nic_link=link(row["nic_link"]) if "nic_link" in row else None,
        law=law(row["law"]),
        all_to_all=law(row["all_to_all"]) if "all_to_all" in row else None,
        in_switch=law(row["in_switch"]) if "in_switch" in row else None,
        p2p_narrow=made(FewChannels, row["p2p_narrow"]) if "p2p_narrow" in row else None,
        group_share=shares,
        torus=tuple(row.get("torus", ())),
    )


def fabric(name: str) -> Fabric:
    row = {**rows("fabrics")[name], "source": name}
    return made(
        Fabric,
        {"nics_per_node": None, **row},
        name=name,
        nic=link(row["nic"]),
        ring_small=protocols(row.get("ring_small", [])),
        small=made(SmallMessageLaw, row["small"]) if "small" in row else None,
        all_to_all=made(AllToAllLaw, row["all_to_all"]) if "all_to_all" in row else None,
    )


def cluster(node_name: str, num_nodes: int = 1, fabric_name: str = "") -> Cluster:
    return Cluster(node(node_name), num_nodes, fabric(fabric_name) if fabric_name else None)
