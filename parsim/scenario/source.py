"""Where a scenario comes from: a file, or the few options that stand for one; and the changes of either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from parsim.errors import Fault, ParsimError, ScenarioError

if TYPE_CHECKING:  # what reads scenarios is imported where one is read: `parsim --help` does without
    from parsim.scenario.changes import Change
    from parsim.scenario.types import Scenario

# Options that stand for keys of a scenario, by the names of their parameters.
OPTIONS: Final[Mapping[str, str]] = {
    "model": "model",
    "node": "cluster.node",
    "num_devices": "cluster.num_devices",
    "num_nodes": "cluster.num_nodes",
    "fabric": "cluster.fabric",
    "global_batch": "batch.global_batch",
    "sequence_length": "batch.sequence_length",
    "dtype": "batch.dtype",
    "stack": "stack",
}
_ASKED: Final = "the command line"


@dataclass(frozen=True, slots=True)
class Source:
    """A scenario file, or none: then `options` say at least model and node, and what they leave out takes defaults that are printed.

    >>> asked = Source(options={"model": "llama3-8b", "node": "a100-40gb", "num_devices": 16}).load()
    >>> asked.cluster.node.name, asked.cluster.fabric.name, asked.batch.sequence_length, asked.batch.global_batch
    ('dgx-a100-40gb', 'ib-hdr-8rail', 8192, 512)
    """

    file: Path | None = None
    options: Mapping[str, str | int | None] = field(default_factory=dict)  # by the names of OPTIONS; None: not given
    sets: Sequence[str] = ()  # PATH=VALUE each
    changes: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Scenario:
        """The scenario.

        Raises:
            ScenarioError: it is wrong; the error holds all faults.
            ParsimError: there is neither a file, nor a model and a node.
        """
        scenario, faults = self._read()
        if scenario is None:
            raise ScenarioError.of(faults)
        return scenario

    def faults(self) -> list[Fault]:
        """All faults, in the order of the file; none where `load` returns."""
        return self._read()[1]

    def __str__(self) -> str:
        return str(self.file) if self.file else f"{self.options.get('model')} on {self.options.get('node')}"

    def _read(self) -> tuple[Scenario | None, list[Fault]]:
        from parsim.scenario.build import build
        from parsim.scenario.changes import Change, changes_of
        from parsim.scenario.tree import Tree, read

        changes = (*self._options(), *(Change.of(each) for each in self.sets), *changes_of(self.changes))
        if self.file:
            return build(read(self.file), self.file.stem, changes)
        if not {"model", "cluster.node"} <= {each.path for each in changes}:
            remedy = "E.g. parsim plan --model llama3-8b --node dgx-a100-40gb --num-devices 16."
            raise ParsimError("needs a scenario file, or --model and --node", remedy=remedy)
        return build(Tree(_ASKED, {}), str(self), changes, asked=True)

    def _options(self) -> list[Change]:
        from parsim.scenario.changes import Change
        from parsim.scenario.defaults import node_called

        found = []
        for name, value in self.options.items():
            meant = node_called(value) if name == "node" and isinstance(value, str) else value
            if value is not None:
                note = f"{value} is {meant}" if meant != value else ""
                found.append(Change(OPTIONS[name], meant, f"--{name.replace('_', '-')}", note))
        return found
