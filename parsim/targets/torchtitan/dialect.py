"""The three ways in which torchtitan has been told of a job.

Source: pytorch/torchtitan, tag v0.2.2 (torchtitan/config/job_config.py), release 0.3.0 and commit b5bcd76c (torchtitan/config/configs.py,
config/manager.py, distributed/activation_checkpoint.py).
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

NEWEST, HEAD, TOML = "0.3.0", "main-2026-08", "0.2.2"


class Dialect(Struct, frozen=True):
    """A version of torchtitan, and what its keys are."""

    version: str
    toml: bool = False  # a file of keys; else flags beside a function of Python that makes the configuration
    tokens: bool = False  # batches are stated in tokens


DIALECTS: Final = {each.version: each for each in (Dialect(NEWEST), Dialect(HEAD, tokens=True), Dialect(TOML, toml=True))}
