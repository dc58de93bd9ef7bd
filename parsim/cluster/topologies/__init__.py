"""One builder a file; each registers a Topology.  Every one must pass the contract: connected, symmetric, all wires with bandwidth."""
