"""One fact of a plan, batch or model as a launcher's keys say it: a line of a table that export writes from and import reads by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

from msgspec import Struct

from parsim.targets.target import KeyValue, Left, Setup

_ABSENT: Final = object()
MOST_COUNT: Final = 10**9
TOKENS: Final = "training.total_tokens"
_OF_SGD: Final = ("learning_rate", "momentum")
_OF_ADAM: Final = ("learning_rate", "beta1", "beta2", "eps", "weight_decay")
_WORDS: Final = {int: "whole number", float: "number", bool: "switch", str: "text", list: "list"}
T = TypeVar("T")


class Unresolved(str):
    """A value that a launcher's file computes, as it stands there; whoever reads the file runs none of it."""


class Keys:
    """A launcher's keys as they are read: what nobody asked for remains, and is told as left out.

    >>> keys = Keys({"tp": 8, "seed": 1})
    >>> keys.take("tp"), keys.take("pp", 1), keys.rest()
    (8, 1, {'seed': 1})
    """

    def __init__(self, values: Mapping[str, KeyValue]) -> None:
        self._values = dict(values)
        self._taken: set[str] = set()
        self.left: list[Left] = []

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def take(self, key: str, default: KeyValue = None) -> KeyValue:
        """The value of a key, which counts as carried over from now on."""
        self._taken.add(key)
        value = self._values.get(key, default)
        return default if isinstance(value, Unresolved) else value

    def is_unresolved(self, key: str) -> bool:
        """Whether it has a value that nobody knows."""
        return isinstance(self._values.get(key), Unresolved)

    def is_value(self, key: str, value: KeyValue) -> bool:
        """Whether it has this value; it does not count as carried over."""
        return key in self._values and bool(self._values[key] == value)

    def of_type(self, kind: type[T], key: str, default: T | None = None) -> T | None:
        """The value of a key of a type; one of another is told as left out, and None is as if it were not there."""
        value = self.take(key)
        if (kind is float and type(value) is int) or (kind is str and type(value) in (int, float)):
            value = kind(value)  # type: ignore[call-arg]
        if value is None or type(value) is kind:
            return default if value is None else value
        self.leave(key, f"it is no {_WORDS.get(kind, kind.__name__)}")
        return default

    def like(self, key: str, usual: KeyValue, *, least: int = 1, below: int = MOST_COUNT) -> KeyValue:
        """The same of the type of its usual value, which it has where it is absent; a whole number is from `least` up to `below`, or the
        usual one.

        >>> keys = Keys({"tp": 8, "pp": "two", "cp": -3})
        >>> keys.like("tp", 1), keys.like("pp", 1), keys.like("cp", 1), [(left.key, left.why) for left in keys.left]
        (8, 1, 1, [('pp', 'it is no whole number'), ('cp', 'it is no count')])
        """
        value = self.of_type(type(usual), key, usual)
        if type(value) is int and not (least <= value < below or value == usual):
            self.leave(key, "it is no count")
            return usual
        return value

    def leave(self, key: str, why: str) -> None:
        """Say of a key why it is not carried over."""
        self._taken.add(key)
        if key not in (each.key for each in self.left):
            self.left.append(Left(key, self._values.get(key), why))

    def rest(self) -> dict[str, KeyValue]:
        """What nobody took."""
        return {key: value for key, value in self._values.items() if key not in self._taken}


class Entry(Struct, frozen=True):
    """`fields` of a scenario, by dotted path ("plan.tensor_parallel", "batch.global_batch", "model.num_layers"), as keys of a launcher.

    `write` gives the keys of a setup, `read` the fields of the keys it takes.  An entry without fields is of the launcher alone: what
    must stand in its file whatever the plan.  What is `assumed` is no matter of a launcher, such as what its data will be like.
    """

    fields: tuple[str, ...]
    write: Callable[[Setup], Mapping[str, KeyValue]]
    read: Callable[[Keys], Mapping[str, Any]] = lambda keys: {}
    assumed: bool = False


def value_of(setup: Setup, field: str) -> Any:
    """What a setup says of a field, e.g. of "plan.tensor_parallel"; batch.dtype is the precision of the plan, where it states one.

    training.total_tokens are those of whole steps.
    """
    part, name = field.split(".", 1)
    if field == TOKENS:
        tokens, of_step = setup.scenario.total_tokens, setup.batch.num_tokens
        return None if tokens is None else -(-tokens // of_step) * of_step
    return setup.dtype if field == "batch.dtype" else getattr(getattr(setup, part), name, None)


def counted_figures(setup: Setup) -> tuple[str, ...]:
    """The fields of `training` that a plan's training goes by: each optimizer has figures of its own."""
    own = _OF_SGD if setup.plan.optimizer.startswith("sgd") else _OF_ADAM
    return tuple(f"training.{name}" for name in (*own, "max_norm", "epochs", "total_tokens"))


def same(field: str, key: str, *, default: KeyValue = _ABSENT, always: bool = True) -> Entry:
    """A field that one key states as it is; `default` is what the launcher takes where the key is absent.

    Without `always` the key is written only where it differs from that.
    """

    def write(setup: Setup) -> dict[str, KeyValue]:
        value = value_of(setup, field)
        return {} if not always and value == default else {key: value}

    def read(keys: Keys) -> dict[str, Any]:
        value = keys.take(key, default)
        return {} if value is _ABSENT or keys.is_unresolved(key) else {field: value}

    return Entry((field,), write, read)


def by_name(field: str, key: str, names: Mapping[Any, KeyValue], *, default: KeyValue = _ABSENT) -> Entry:
    """A field whose values have other names there; of a value without one nothing is written, so that it is refused unless it is meant."""
    back = {value: name for name, value in names.items()}

    def write(setup: Setup) -> dict[str, KeyValue]:
        value = names.get(value_of(setup, field))
        return {} if value is None else {key: value}

    def read(keys: Keys) -> dict[str, Any]:
        value = keys.take(key, default)
        if value in back:
            return {field: back[value]}
        if value is not _ABSENT:
            keys.leave(key, f"no {field.split('.')[1]} of that name")
        return {}

    return Entry((field,), write, read)


def constant(**keys: KeyValue) -> Entry:
    """Keys that stand there whatever the plan; read, they say nothing, unless they have another value."""

    def read(found: Keys) -> dict[str, Any]:
        for key, value in keys.items():
            if found.is_value(key, value):
                found.take(key)
        return {}

    return Entry((), lambda setup: keys, read)


def fields_of(entries: tuple[Entry, ...]) -> Iterator[str]:
    """The fields that some entry states."""
    for entry in entries:
        yield from entry.fields
