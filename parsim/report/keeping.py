"""Checkpoints of `parsim execute`: what is asked of them, and the command that goes on when a run has ended before its time."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from parsim.errors import EndedRun, ParsimError
from parsim.parallel.plan import Plan
from parsim.report.console import log
from parsim.scenario.source import Source

_USUAL: Final = {"transport": "shared_memory", "precision": "float64"}


class Kept(Struct, frozen=True):
    """Where checkpoints are kept, after how many steps each, and whether the run goes on from one."""

    folder: Path
    every: int | None
    resume: bool
    from_step: int | None

    @property
    def arguments(self) -> dict[str, Any]:
        """As `execute` takes them."""
        return {"checkpoint": self.folder, "checkpoint_every": self.every, "resume": self.resume, "from_step": self.from_step}

    def command(self, source: Source, plan: str, num_steps: int, **options: Any) -> str:
        """What to ask to go on from the newest."""
        words = ["parsim", "execute", str(source), *(word for change in source.sets for word in ("--set", change)), "--plan", plan]
        stated = {"steps": num_steps, **{name: value for name, value in options.items() if value != _USUAL.get(name)}}
        words += [word for name, value in stated.items() if value is not None for word in (f"--{name.removesuffix('_s')}", str(value))]
        words += ["--checkpoint", str(self.folder), *(("--checkpoint-every", str(self.every)) if self.every else ())]
        return shlex.join([*words, "--resume"])


def check_one(plans: Sequence[Plan], names: Sequence[str]) -> None:
    """Refuse several plans, and one of parameter servers.

    Raises:
        ParsimError: there are several, or servers, whose weights are not kept.
    """
    if len(names) > 1:
        raise ParsimError(f"checkpoints are of one plan, and here are {len(names)}", remedy=f"Name it: --plan {shlex.quote(names[0])}")
    if plans[0].is_served:
        raise ParsimError(f"plan {names[0]} has parameter servers, of which no checkpoints are kept", remedy="Leave --checkpoint out.")


@contextmanager
def way_on(command: str | None) -> Iterator[None]:
    """Let a run that ends before its time name the command that goes on; None: nothing is kept.

    Raises:
        EndedRun: as it is raised inside, with that remedy.
    """
    try:
        yield
    except KeyboardInterrupt:
        if command:
            log(f"Next: {command}")
        raise
    except EndedRun as error:
        raise EndedRun(error.what, error.where, f"Next: {command}" if command else error.remedy) from error
