"""Where a scenario comes from: a file, or the few options that stand for one; and the changes of either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from parsim.errors import Fault, ParsimError, ScenarioError

if TYPE_CHECKING:  # what reads scenarios is imported where one is read: `parsim --help` does without
    from parsim.scenario.changes import Change
    from parsim.scenario.types import Scenario

_ASKED: Final = "the command line"


class Source(Struct, frozen=True):
    """A scenario file, or none: then `options` say at least model and node, and what they leave out takes defaults that are printed.

    >>> asked = Source(options={"model": "llama3-8b", "node": "a100-40gb", "num_devices": 16}).load()
    >>> asked.cluster.node.name, asked.cluster.fabric.name, asked.batch.sequence_length, asked.batch.global_batch
    ('dgx-a100-40gb', 'ib-hdr-8rail', 8192, 512)
    """

    file: Path | None = None
    options: Mapping[str, str | int | None] = field(default_factory=dict)  # a key, by its last word; None: not given
    sets: Sequence[str] = ()  # PATH=VALUE each
    changes: Mapping[str, Any] = field(default_factory=dict)  # by path
    swaps: Sequence[str] = ()  # after the others, as sets

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
        named = (str(self.options[each]) for each in ("model", "node") if self.options.get(each))
        return str(self.file) if self.file else " on ".join(named) or _ASKED

    def swap(self, swaps: Sequence[str]) -> Source:
        """The same with other changes, PATH=VALUE each, which are faults of --swap where they are wrong."""
        return replace(self, swaps=tuple(swaps))

    def all_changes(self) -> tuple[Change, ...]:
        """All that is said beside the file, or in place of one, in the order in which it is set."""
        from parsim.scenario.changes import Change, changes_of

        sets = (Change.of(each, option) for option, every in (("--set", self.sets), ("--swap", self.swaps)) for each in every)
        return (*self._options(), *sets, *changes_of(self.changes))

    def _read(self) -> tuple[Scenario | None, list[Fault]]:
        from parsim.scenario.build import build
        from parsim.scenario.tree import Tree, read

        changes = self.all_changes()
        if self.file:
            return build(read(self.file), self.file.stem, changes)
        if not {"model", "cluster.node"} <= {each.path for each in changes}:
            remedy = "E.g. parsim plan --model llama3-8b --node dgx-a100-40gb --num-devices 16."
            raise ParsimError("needs a scenario file, or --model and --node", remedy=remedy)
        return build(Tree(_ASKED, {}), str(self), changes, asked=True)

    def _options(self) -> list[Change]:
        from parsim.scenario.changes import SHORT, Change, row_named

        found = []
        for name, value in self.options.items():
            path = SHORT.get(name, name)
            meant = row_named(path, value)
            if value is not None:
                note = f"{value} is {meant}" if meant != value else ""
                found.append(Change(path, meant, f"--{name.replace('_', '-')}", note))
        return found
