"""What all tests rest on: hypothesis judges examples by what they show, never by how long a busy machine takes over them."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Programs that tests start find bytecode, as those of an installed package do: compiling parsim takes longer than most of them run.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
