"""What tells one scenario from another: a hash of all that its prices depend on."""

from __future__ import annotations

import hashlib
import json

from parsim.plain import to_plain
from parsim.scenario.types import Scenario

_PRICED = ("model", "cluster", "batch", "stack", "itemsize_bytes")


def digest(scenario: Scenario) -> str:
    """The same text for scenarios whose model, cluster, batch and stack are equal as they are resolved, whatever their plans and names."""
    document = {name: to_plain(getattr(scenario, name)) for name in _PRICED}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
