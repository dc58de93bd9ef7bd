"""Which split is best: enumerate the legal plans of a space, price them as arrays, drop what does not fit, rank the rest."""

from __future__ import annotations

from parsim.planner.changes import Remedies, Remedy, remedies, smallest_cluster
from parsim.planner.front import Front, pareto
from parsim.planner.ranking import Ranking
from parsim.planner.search import plan
from parsim.planner.sizing import Sizing, size
from parsim.planner.space import candidates

__all__ = ["Front", "Ranking", "Remedies", "Remedy", "Sizing", "candidates", "pareto", "plan", "remedies", "size", "smallest_cluster"]
