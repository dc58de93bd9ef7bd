"""A torus of three axes (TPU v4 and v5p): wired as one of two."""

from __future__ import annotations

from parsim.cluster.topologies.torus_2d import build, fault_of
from parsim.cluster.topology import TOPOLOGIES, Topology

TOPOLOGIES.register(
    "torus_3d", Topology("torus_3d", "node", build, "jax-ml/scaling-book@0819a7d8 tpus.md: TPU networking", lambda node: fault_of(3, node))
)
