"""What breaks how often, what is done then, and what is kept against it: the sections `failures` and `checkpoint` once they are read."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

# Of the replicas of a weight: each writes its part, the first all of it, or each all of it.
ALL, FIRST, EACH = "all", "first", "each"


class FailureRates(Struct, frozen=True):
    """Mean times between failures that stop a run, each of one thing of its kind; None: it does not fail."""

    name: str
    source: str = ""
    device_mtbf_s: float | None = None
    node_mtbf_s: float | None = None  # of all of a node but its devices
    switch_mtbf_s: float | None = None  # with its cables
    nodes_per_switch: int = 1
    job_mtbf_s: float | None = None  # of what fails once for the whole run: software

    def by_cause(self, num_devices: Any, num_nodes: int) -> dict[str, Any]:
        """Failures a second of a run on so many devices (a number, or an array of them) and nodes, by what fails.

        >>> FailureRates("toy", device_mtbf_s=800.0, job_mtbf_s=50.0).by_cause(16, 2)
        {'device': 0.02, 'node': 0.0, 'switch': 0.0, 'job': 0.02}
        """
        switches = -(-num_nodes // self.nodes_per_switch)
        between_s = {
            "device": (num_devices, self.device_mtbf_s),
            "node": (num_nodes, self.node_mtbf_s),
            "switch": (switches, self.switch_mtbf_s),
            "job": (1, self.job_mtbf_s),
        }
        return {cause: 0.0 if mtbf_s is None else number / mtbf_s for cause, (number, mtbf_s) in between_s.items()}


class Failures(Struct, frozen=True):
    """How often a run fails, and what is done about it."""

    rates: FailureRates
    restart_s: float  # from when a failure is known until steps go on, without reading the checkpoint
    detection_s: float = 0.0
    repair_s: float | None = None  # until a node that failed can be used again; None: another stands ready at any time
    spare_nodes: int = 0
    elastic: bool = False  # whether the run goes on with fewer replicas where no spare is left; else it waits for a repair


class Checkpoint(Struct, frozen=True):
    """What is written when, and by whom.  Neither interval: the one that loses least."""

    interval_s: float | None = None  # of work between two checkpoints
    interval_steps: int | None = None
    asynchronous: bool = False  # a copy on the hosts is written while steps go on
    writers: str = ALL
    keep: int = 1  # how many storage holds
    write_s: float | None = None  # measured, in place of what storage's bandwidth says
    read_s: float | None = None
