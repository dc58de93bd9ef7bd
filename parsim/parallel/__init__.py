"""How the work is split: the plan and its legality, the mesh, the sharding rules and the stages of a pipeline."""
