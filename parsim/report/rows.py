"""What the catalog holds, for `parsim list` and `parsim show`: rows as their files have them, each figure with its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Final

from parsim import catalog
from parsim.errors import ParsimError, did_you_mean
from parsim.registry import Registry

CatalogRow = Mapping[str, Any]

# The columns of a kind, beside the name, each with the figures it shows; another kind shows its first few figures.
_COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "accelerators": {"peak": "peak", "HBM": "hbm_bandwidth", "memory": "hbm_capacity"},
    "links": {"bandwidth, one way": "bandwidth", "latency": "latency"},
    "nodes": {"devices": "devices_per_node x accelerator", "link": "link", "NICs": "num_nics", "topology": "topology"},
    "fabrics": {"NICs a node": "nics_per_node x nic", "topology": "topology", "efficiency": "efficiency"},
    "models": {
        **{"layers": "num_layers", "hidden": "hidden_size", "heads": "num_heads", "kv heads": "num_kv_heads"},
        **{"vocabulary": "vocab_size", "positions": "max_positions"},
    },
    "stacks": {"attention": "attention", "fusions": "fusions", "gradients": "gradient_dtype"},
    "dtypes": {"itemsize": "itemsize"},
    "failures": {"device MTBF": "device_mtbf", "node": "node_mtbf", "switch": "switch_mtbf", "job": "job_mtbf"},
    "storage": {"read": "read_bandwidth", "write": "write_bandwidth", "read, a node": "node_read_bandwidth", "capacity": "capacity"},
    "inputs": {"of": "per", "bytes": "size", "to the device": "device_size", "decodes": "decode_per_s", "tokenizes": "tokenize_per_s"},
}

# What is registered beside the catalog's rows: the registry and its module, the package that fills it, and the columns of a listing.
_REGISTRIES: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "schedules": ("parsim.schedules", "SCHEDULES", "parsim.schedules", "source"),
    "collectives": ("parsim.collectives", "COLLECTIVES", "parsim.collectives", "operations"),
    "topologies": ("parsim.cluster.topology", "TOPOLOGIES", "parsim.cluster.topologies", "level"),
    "dimensions": ("parsim.parallel.dimensions", "DIMENSIONS", "parsim.parallel.dimensions", "source"),
    "datasets": ("parsim.data", "DATASETS", "parsim.data", "trains"),
    "targets": ("parsim.targets", "TARGETS", "parsim.targets.launchers", "versions title"),
}


def _registry_rows(kind: str) -> dict[str, dict[str, str]]:
    """What a listing says of each that is registered, by name."""
    module, registry_name, package, columns = _REGISTRIES[kind]
    registry: Registry[Any] = getattr(import_module(module), registry_name)
    registry.discover(package)
    about = {name: {each: getattr(registry.get(name), each) for each in columns.split()} for name in registry.names()}
    return {name: {each: text if isinstance(text, str) else ", ".join(text) for each, text in own.items()} for name, own in about.items()}


def kinds() -> tuple[str, ...]:
    """Everything that can be listed."""
    return (*catalog.kinds(), *_REGISTRIES)


def listing(kind: str) -> list[dict[str, str]]:
    """A row for each name of a kind, with its columns as text.

    Raises:
        ParsimError: no such kind; the message lists them.
    """
    meant = kind if kind in kinds() else f"{kind}s"
    if meant in _REGISTRIES:
        return [{"name": name, **about} for name, about in _registry_rows(meant).items()]
    if meant not in catalog.kinds():
        raise ParsimError(f"unknown kind '{kind}'{did_you_mean(kind, kinds())}", remedy=f"Known: {', '.join(kinds())}.")
    newest = {row: name for name, row in catalog.newest(meant).items()}
    return [
        {"name": name, **({"newest of": newest.get(name, "")} if newest else {}), **_columns(meant, catalog.row(meant, name))}
        for name in catalog.names(meant)
    ]


def _columns(kind: str, row: CatalogRow) -> dict[str, str]:
    if kind not in _COLUMNS:
        return {each["figure"]: each["value"] for each in figures(row)[:4]}
    row = {"num_kv_heads": row.get("num_heads", ""), "nics_per_node": "all", **row}
    return {title: " x ".join(_words(row.get(key, "")) for key in keys.split(" x ")) for title, keys in _COLUMNS[kind].items()}


def _words(value: object) -> str:
    value = [f"{key} {each}" for key, each in value.items()] if isinstance(value, Mapping) else value
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def find_rows(name: str) -> dict[str, list[dict[str, str]]]:
    """The rows called `name`, by kind: each figure with its value and source.

    Raises:
        ParsimError: nothing is called so; the nearest is named.
    """
    rows = {kind: _figures_of(kind, name) for kind in catalog.kinds() if catalog.find(kind, name)}
    if "models" in rows:
        rows["models"] += [{"figure": what, "value": f"{count:,}", "source": "counted from its ops"} for what, count in _parameters(name)]
    for kind in _REGISTRIES:
        if name in (known := _registry_rows(kind)):
            rows[kind] = [{"figure": "about", "value": "; ".join(known[name].values()), "source": ""}]
    if not rows:
        hints = (catalog.hint(kind, name) for kind in catalog.kinds())
        near = next(filter(None, hints), "") or did_you_mean(name, [each for kind in _REGISTRIES for each in _registry_rows(kind)])
        raise ParsimError(f"nothing is called '{name}'{near}", remedy=f"List names with: parsim list {'|'.join(kinds())}")
    return rows


def _figures_of(kind: str, name: str) -> list[dict[str, str]]:
    """The figures of a row; where an alias asked for it, first whose row it is, and why."""
    row, alias = catalog.find(kind, name), catalog.aliases(kind).get(name)
    same = [{"figure": "same_as", "value": row, "source": alias["source"]}] if alias else []
    return same + figures(catalog.row(kind, row))


def _parameters(name: str) -> Iterator[tuple[str, int]]:
    """All of a model, and those that a token meets where it chooses experts."""
    from parsim.model.parameters import num_active_parameters, num_parameters
    from parsim.scenario.rows import read

    model = read("models", name)
    yield "parameters", (whole := num_parameters(model))
    if (active := num_active_parameters(model)) < whole:
        yield "active parameters", active


def figures(row: CatalogRow) -> list[dict[str, str]]:
    """The figures of a row as text, nested ones with a dotted name; each has the source of the key it stands under."""
    sources = row.get("source", {})
    stated = sources if isinstance(sources, Mapping) else dict.fromkeys(row, sources)
    return [
        {"figure": figure, "value": value, "source": str(stated.get(figure, stated.get(figure.partition(".")[0], "")))}
        for figure, value in _flat("", {key: each for key, each in row.items() if key != "source"})
    ]


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        value = dict(enumerate(value, start=1))
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), each)
        return
    shown = ", ".join(str(each) for each in value) or "none" if isinstance(value, list | Mapping) else str(value)
    yield prefix, shown.lower() if isinstance(value, bool) else shown
