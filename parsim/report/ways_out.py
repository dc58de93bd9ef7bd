"""The command to ask next, behind each error of the command line that names none by itself."""

from __future__ import annotations

import os
import re
import shlex
from typing import Final

from parsim.errors import Fault, ParsimError

COMMANDS: Final = (
    *("advise", "calibrate", "check", "compare", "doctor", "execute", "explain", "export", "import", "init", "list", "plan", "plot"),
    *("run", "schema", "show", "size", "sweep", "validate", "verify", "whatif"),
)
_NAMED: Final = re.compile(rf"\bparsim ({'|'.join(COMMANDS)})\b|pip install")
# What a message speaks of -> what shows it; the first that fits counts.
_ABOUT: Final[tuple[tuple[str, str], ...]] = (
    (r"no such file|cannot be read: No such file", "parsim init -o {file} writes a scenario"),
    (r"unknown model|\bmodel\b.*unknown", "parsim list models shows those of the catalog"),
    (r"unknown node|unknown accelerator", "parsim list nodes and parsim list accelerators show what the catalog has"),
    (r"unknown fabric", "parsim list fabrics shows those of the catalog"),
    (r"unknown failure", "parsim list failures shows those of the catalog"),
    (r"unknown storage", "parsim list storage shows those of the catalog"),
    (r"unknown input", "parsim list inputs shows those of the catalog"),
    (r"unknown stack", "parsim list stacks shows those of the catalog"),
)


def way_out(error: BaseException, text: str, command: str) -> str:
    """The line that follows the text of an error of a command; "" where the text names a command already."""
    if _NAMED.search(text[-20_000:]):
        return ""
    faults: tuple[Fault, ...] = getattr(error, "faults", ())
    file = faults[0].path if faults else getattr(error, "where", "")
    if _is_no_scenario(file, command):
        return _line(f"parsim {command} --help shows how to ask")
    for pattern, said in _ABOUT:
        if re.search(pattern, text[:20_000]) and ("{file}" not in said or (file and faults)):
            return _line(said.format(file=shlex.quote(file)))
    if faults and os.path.isfile(file) and command not in ("check", "import"):
        return _line(f"parsim check {shlex.quote(file)} says all that is wrong with a scenario; parsim schema what may stand there")
    if faults and not (os.path.isfile(file) and command == "import"):  # which reads what is no scenario
        return _line("parsim schema says what may stand in a scenario, parsim list what the catalog has")
    if getattr(error, "filename", "") == "stdout":
        return ""  # the shell's redirection, not parsim
    looks = "; parsim doctor looks at the installation and its folders" * (not isinstance(error, ParsimError))
    return _line(f"parsim {command} --help shows how to ask{looks}" if command else f"parsim --help shows all commands{looks}")


def _is_no_scenario(file: str, command: str) -> bool:
    """Whether what is wrong is measurements, or what an option says."""
    return file.startswith("--") or (command == "calibrate" and not file.endswith((".yaml", ".yml")))


def _line(said: str) -> str:
    return f"  Next: {said}."
