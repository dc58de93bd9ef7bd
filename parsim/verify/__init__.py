"""The exactness contract: what estimate and simulate predict against what numpy ranks really did, integer by integer."""

from __future__ import annotations

from parsim.verify.contract import Check, verify, verify_plan
from parsim.verify.shrink import shrunk

__all__ = ["Check", "shrunk", "verify", "verify_plan"]
