"""Nodes of several kinds, of which no launcher has a key: a comment at the head of what is exported says them, and an import reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from parsim import catalog
from parsim.cluster.cluster import Cluster, Fabric, NodeGroup

_HEAD: Final = re.compile(r"^# parsim: cluster = (\{.{1,10000}\})$", re.MULTILINE)
_FIRST: Final = 2_000  # characters of a file in which it stands, but for its own
_TOLD: Final = "which nodes are of which kind is told by no key of it: start the ranks in the scenario's order"


def note_of(cluster: Cluster) -> str:
    """What who starts it has to know, with the words by which an import says the same where the file cannot."""
    if (said := _section(cluster)) is None:
        return f"{_TOLD}, and import it with --set 'cluster.nodes=[{{node: NAME, count: N}}, ...]'"
    fabric = f" --set cluster.fabric={said['fabric']}" if "fabric" in said else ""
    return f"{_TOLD}; `parsim import` reads them in its first lines, or by --set 'cluster.nodes={_flow(said['nodes'])}'{fabric}"


def with_kinds(text: str, name: str, cluster: Cluster) -> str:
    """A file whose comments begin with # with the nodes at its head, behind the line that says what runs it; others as they are."""
    if name.endswith(".json") or (said := _section(cluster)) is None:
        return text
    first, rest = text.split("\n", 1) if text.startswith("#!") else ("", text)
    return "\n".join([*([first] if first else []), f"# parsim: cluster = {json.dumps(said)}", rest])


def kinds_in(text: str) -> Mapping[str, Any]:
    """The nodes that a comment at a file's head says, as the section of a scenario has them; nothing where there is none.

    >>> kinds_in('# parsim: cluster = {"nodes": [{"node": "dgx-h100", "count": 2}, {"node": "dgx-a100-80gb", "count": 4}]}')["nodes"][1]
    {'node': 'dgx-a100-80gb', 'count': 4}
    """
    found = _HEAD.search(text[: _FIRST + 10_000])
    if found is None or found.start() > _FIRST:
        return {}
    try:
        said = json.loads(found[1])
        rows = [{key: each[key] for key in ("node", "count", "fabric") if key in each} for each in said["nodes"]]
        names = [("nodes", each["node"]) for each in rows]
        names += [("fabrics", each["fabric"]) for each in (*rows, said) if "fabric" in each]
        known = all(isinstance(name, str) and catalog.find(kind, name) for kind, name in names)
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return {"nodes": rows, **({"fabric": said["fabric"]} if "fabric" in said else {})} if known else {}


def _section(cluster: Cluster) -> dict[str, Any] | None:
    """The nodes and what joins them by names of the catalog; None where some are of no row."""
    fabrics = [cluster.fabric, *(group.fabric for group in cluster.groups)]
    named = [*(("nodes", group.node.name) for group in cluster.groups), *(("fabrics", each.name) for each in fabrics if each)]
    if not all(catalog.find(kind, name) == name for kind, name in named):
        return None
    return {"nodes": [*map(_row, cluster.groups)], **_name_of(cluster.fabric)}


def _row(group: NodeGroup) -> dict[str, Any]:
    return {"node": group.node.name, "count": group.num_nodes, **_name_of(group.fabric)}


def _name_of(fabric: Fabric | None) -> dict[str, str]:
    return {"fabric": fabric.name} if fabric else {}


def _flow(rows: list[dict[str, Any]]) -> str:
    """The rows as one writes them in YAML."""
    return "[" + ", ".join("{" + ", ".join(f"{key}: {value}" for key, value in row.items()) + "}" for row in rows) + "]"
