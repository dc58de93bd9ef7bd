"""The words of a shell script, read and never run: its assignments of literal text, its arrays, and the line that starts a program.

What it computes stays as it stands there, and is told as left out: $1, $(...), what a branch may or may not assign.
Source: POSIX.1-2017, Shell Command Language, 2.2 to 2.6; GNU Bash manual, arrays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from parsim.errors import ParsimError

END: Final = "\n"  # a token: of a command
MOST_WORDS: Final = 100_000
MOST_CHARACTERS: Final = 4_000_000  # of all that variables hold: a few lines that double one fill any memory
_QUOTED: Final = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|\$\((?:[^()]|\([^()]*\))*\)|`[^`]*`|[^\s;&|()<>'\"\\`]|\$", re.DOTALL)
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
_VARIABLE: Final = re.compile(r"\$(?:\{([A-Za-z_]\w*)(?:\[[@*]\])?(?::?-([^}]*))?\}|([A-Za-z_]\w*))")
_OPENS, _CLOSES = {"if", "for", "while", "until", "case"}, {"fi", "done", "esac"}
_BEFORE: Final = {"export", "declare", "local", "readonly", "then", "do", "else", "-x", "-a", "-r"}


class Script(NamedTuple):
    """What a script says: the words of the command that starts a Python program, and what its variables are."""

    command: list[str]
    variables: Mapping[str, str]


class _Values(dict[str, Any]):
    """What variables or arrays hold, by name: not more than MOST_CHARACTERS in all."""

    told = 0

    def __setitem__(self, name: str, value: Any) -> None:
        self.told += len(value) if isinstance(value, str) else sum(len(word) + 1 for word in value)
        if self.told > MOST_CHARACTERS:
            raise _too_long()
        super().__setitem__(name, value)


def _too_long() -> ParsimError:
    said = f"a script of more than {MOST_WORDS} words, or {MOST_CHARACTERS} characters in variables"
    return ParsimError(said, remedy="Give the line that starts the program alone.")


def _at_most(words: Iterable[str]) -> list[str]:
    """The words, which are no more than anybody starts a program with."""
    found, told = list[str](), 0
    for word in words:
        told += len(word)
        if len(found) == MOST_WORDS or told > MOST_CHARACTERS:
            raise _too_long()
        found.append(word)
    return found


def read_script(text: str) -> Script:
    """The last command that starts a Python program with the most options; where there is none, the options that a variable holds.

    >>> read_script('N=4\\nARGS=(--tp $N\\n  --name "a b")  # two\\ntorchrun train.py "${ARGS[@]}" \\\\\\n  --bf16').command
    ['torchrun', 'train.py', '--tp', '4', '--name', 'a b', '--bf16']
    """
    known, arrays, depth = _Values(), _Values(), 0
    found: list[str] = []
    for command in _commands(text):
        depth += sum(word in _OPENS for word in command[:1]) - sum(word in _CLOSES for word in command[:1])
        rest = [*command]
        while rest and (rest[0] in _BEFORE or _assigns(rest, known, arrays, certain=depth <= 0)):
            del rest[0]
        words = _at_most(word for each in rest for word in _expansion(each, known, arrays))
        program = any(word.endswith(".py") for word in words)
        if program and sum(word.startswith("--") for word in words) >= sum(word.startswith("--") for word in found):
            found = words
    return Script(found or _most_options(known, arrays), known)


def _most_options(known: Mapping[str, str], arrays: Mapping[str, list[str]]) -> list[str]:
    """Of a script that starts nothing, the words of the variable that holds most options."""
    words = [*arrays.values(), *([*_expansion(f"${name}", known, {})] for name in known)]
    return ["program.py", *max(words, key=lambda own: sum(word.startswith("--") for word in own), default=[])]


def _commands(text: str) -> Iterator[list[str]]:
    """Commands as raw words, quotes and all; an array's are one word, from "NAME=(" to ")", with its own between lines."""
    command: list[str] = []
    for word in _raw(text):
        if word == END:
            if command:
                yield command
            command = []
        else:
            command.append(word)
    if command:
        yield command


def _raw(text: str) -> Iterator[str]:
    place, count, text = 0, 0, text.replace("\\\r\n", " ").replace("\\\n", " ").replace("\r\n", "\n")
    while place < len(text):
        count += 1
        if count > MOST_WORDS:
            raise _too_long()
        if text[place] in "\n;&|()<>":
            yield END if text[place] in "\n;&|()" else text[place]
            place += 1
        elif text[place].isspace():
            place += 1
        elif text[place] == "#":
            place = text.find("\n", place) if "\n" in text[place:] else len(text)
        else:
            start = place
            while place < len(text) and (match := _QUOTED.match(text, place)):
                place = match.end()
            place += place == start  # an open quote
            word = text[start:place]
            if re.fullmatch(r"[A-Za-z_]\w*\+?=", word) and text[place : place + 1] == "(":
                close = _close(text, place)
                word, place = text[start : close + 1], close + 1
            yield word


def _close(text: str, place: int) -> int:
    """Where the ")" of an array is."""
    place += 1
    while place < len(text) and text[place] != ")":
        if text[place] == "#" and text[place - 1].isspace():
            place = text.find("\n", place) if "\n" in text[place:] else len(text)
        else:
            match = _QUOTED.match(text, place)
            place = match.end() if match else place + 1
    return min(place, len(text) - 1)


def _assigns(rest: list[str], known: dict[str, str], arrays: dict[str, list[str]], *, certain: bool) -> bool:
    """Whether the first word is an assignment, which is noted; one that may not happen leaves a variable unknown."""
    if not (match := _ASSIGNMENT.fullmatch(rest[0])):
        return False
    name, adds, value = match[1], match[2] == "+", match[3]
    if value.startswith("(") and value.endswith(")"):
        words = _at_most(word for each in _raw(value[1:-1]) if each != END for word in _expansion(each, known, arrays))
        sure = words if certain else [f"{word}=$branch" if word.startswith("--") else word for word in words]
        arrays[name] = [*(arrays.get(name, []) if adds or not certain else []), *sure]
        return True
    text = " ".join(_expansion(value, known, arrays, split=False))
    stated = known.get(name)
    if certain or stated is None or stated == text:
        known[name] = (stated or "") + text if adds else text
    elif stated != text:
        known[name] = f"${name}"
    return True


def _expansion(raw: str, known: Mapping[str, str], arrays: Mapping[str, list[str]], *, split: bool = True) -> Iterator[str]:
    """The words that a raw one becomes: of an array its items, of a variable that holds several words these, even between quotes."""
    bare = raw.strip('"')
    if (match := _VARIABLE.fullmatch(bare)) and (name := match[1] or match[3]) in arrays:
        yield from arrays[name]
        return
    text = _without_quotes(raw, known)
    alone = split and _VARIABLE.fullmatch(bare) and any(each.isspace() for each in text.strip())
    if not alone:
        yield text
        return
    for word in (each for each in _raw(text) if each != END):
        yield _without_quotes(word, known)


def _without_quotes(raw: str, known: Mapping[str, str]) -> str:
    """A word without its quotes, its variables in place where they are known."""

    told = 0

    def value(match: re.Match[str]) -> str:
        nonlocal told
        stated = known.get(match[1] or match[3])
        put = stated if stated is not None else match[2] if match[2] is not None else match[0]
        told += len(put)
        if told > MOST_CHARACTERS:
            raise _too_long()
        return put

    parts = []
    for match in _QUOTED.finditer(raw):
        part = match[0]
        if len(part) > 1 and part[0] == "'":
            parts.append(part[1:-1].replace("$", "\0"))
        elif len(part) > 1 and part[0] == '"':
            parts.append(re.sub(r"\\([$\"\\])", r"\1", part[1:-1]))
        elif len(part) > 1 and part[0] == "\\":
            parts.append(part[1])
        else:
            parts.append(part)
    return _VARIABLE.sub(value, "".join(parts)).replace("\0", "$")
