"""What every model is, in the numbers its paper prints, and what is asked of each; a family adds figures of its own.

The ops that compute a model stand with its family, in families/.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, takewhile
from typing import Any, ClassVar, Final, Self, get_origin

from msgspec import NODEFAULT, Struct
from msgspec.structs import asdict, replace

from parsim.arguments import hints_of, misfits
from parsim.described import Described, Told, breach
from parsim.errors import ParsimError, did_you_mean
from parsim.model.loads import NO_SLOTS, Slots
from parsim.model.op import ENCODER_END as ENCODER_END
from parsim.model.op import JOINT as JOINT
from parsim.model.op import JOINTS as JOINTS
from parsim.model.op import Layout as Layout
from parsim.model.tuning import TunedForm, Tuning

MOST: Final = 1_000_000_000
MOST_LAYERS: Final = 100_000


class Architecture(Struct, frozen=True, kw_only=True):
    """Which ops the blocks of a model have, whatever their sizes."""

    family: ClassVar[str]  # a name of parsim.model.families
    activation: str
    bias: bool
    dropout: bool
    tied: bool = False  # a block reads a weight of another
    tuned: TunedForm | None = None  # what is trained; None: all

    @property
    def biases_mlp(self) -> bool:
        """Whether the linear layers of MLPs have biases."""
        return self.bias


class Figure(Struct, frozen=True, kw_only=True):
    """What a scenario may state for a field of a spec: text, or each of a list of words, is one of `legal`, where there are some; a
    fraction at least 0 and below 1."""

    description: str
    legal: tuple[str, ...] = ()
    zero: bool = False  # a count may be 0
    most: int = MOST  # of a count; of another number below 1 where left out
    rule: Callable[[Mapping[str, Any]], Any] | None = None  # what it is where left out, from the other figures
    aliases: tuple[str, ...] = ()  # what people write for it

    def limits(self, kind: Any) -> dict[str, float]:
        """The limits of its numbers, by pydantic's names; a list has those of each."""
        if kind in (int, tuple[int, ...]):
            return {"ge" if self.zero else "gt": 0, "le": self.most}
        above = {"lt": 1} if self.most == MOST else {"le": self.most}
        return {"ge": 0, **above} if kind is float else {"ge": 0} if get_origin(kind) is tuple and not self.legal else {}


def figure(description: str, default: Any = NODEFAULT, **limits: Any) -> Any:
    """A field of a spec that a scenario may state; `limits` are those of Figure."""
    return Told(default, Figure(description=description, **limits))


class ModelSpec(Described, frozen=True, kw_only=True):
    """The shape of a model of any family."""

    name: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    dropout: float
    source: str = ""
    tuning: Tuning = Tuning()

    @classmethod
    def figures(cls) -> dict[str, Figure]:
        """The fields that a scenario may state."""
        return {name: each.about for name, each in cls.told.items()}

    @classmethod
    def of(cls, **figures: Any) -> Self:
        """The model of these figures; one that is None follows from the others.

        Raises:
            ParsimError: they do not fit one another.
        """
        rules = {name: each.rule for name, each in cls.figures().items() if each.rule and figures.get(name) is None}
        spec = cls(**{**figures, **{name: rule(figures) for name, rule in rules.items()}})
        if misfit := spec.misfit(figures):
            what, _, remedy = misfit.partition("; ")
            raise ParsimError(what, remedy=remedy)
        return spec

    def misfit(self, stated: Mapping[str, Any]) -> str:
        """What does not fit in the figures; "" where all do.  `stated`: as they were, before any followed from others."""
        return ""

    def misfits(self) -> list[str]:
        """All that is wrong with its fields, as a file is told, too: types, or else limits, or else what does not fit."""
        if wrong := [*misfits(self)]:
            return wrong
        hints, values = hints_of(type(self)), asdict(self)
        for name, each in ((name, each.about) for name, each in type(self).told.items() if values[name] != each.default):
            value, limits = values[name], each.limits(hints[name])
            stated = value if isinstance(value, tuple) else (value,)
            if each.legal and (odd := next((word for word in stated if word not in each.legal), None)) is not None:
                wrong.append(f"{name} cannot be '{odd}'{did_you_mean(odd, each.legal)}; legal: {', '.join(each.legal)}")
            wrong += [f"{name} {said}" for number in (_numbers(value) if limits else ()) if (said := breach(number, limits))]
        return wrong or [said for said in [self.misfit(values)] if said]

    @property
    @abstractmethod
    def architecture(self) -> Architecture:
        """What decides which ops there are."""

    @property
    def family(self) -> str:
        """A name of parsim.model.families."""
        return self.architecture.family

    @property
    def layout(self) -> Layout:
        """The first block stands on the first stage and the last on the last; those between are dealt out to all stages."""
        return self.tuning.with_marks((("embedding", 1), ("layer", self.num_layers), ("head", 1)))

    @property
    def has_joint(self) -> bool:
        """Whether a decoder begins behind another stack."""
        return any(name == JOINT for name, _ in self.layout)

    @property
    def first_stack(self) -> int:
        """Layers before that joint; 0 where there is none."""
        before = takewhile(lambda part: part[0] not in JOINTS, self.layout[1:])
        return sum(copies for _, copies in before) if self.has_joint else 0

    @property
    def has_encoder(self) -> bool:
        """Whether a decoder reads what an encoder makes of another sequence, the source."""
        return self.has_joint

    @property
    @abstractmethod
    def extents(self) -> dict[str, int]:
        """Extent of every dim that the model alone decides; the vocabulary is not padded."""

    @property
    def active_extents(self) -> dict[str, int]:
        """The same, with as many experts as a token chooses."""
        return self.extents

    @property
    def load_rows(self) -> tuple[int, ...]:
        """Which loads of experts layers have: see LayerForm."""
        return (0,)

    def slots_chosen(self, sequence_length: int, row: int = 0) -> Slots:
        """The slots of experts that a run of tokens chooses, runs that fit in a sequence; none where there are no experts.

        `row`: of the loads of its experts.
        """
        return NO_SLOTS

    def slots(self, sequence_length: int, row: int = 0) -> Slots:
        """Those of them that go to experts."""
        return self.slots_chosen(sequence_length, row)

    def expert_loads(self, sequence_length: int, row: int = 0) -> tuple[int, ...]:
        """Slots of a run that go to each expert; () where there are none."""
        return self.slots(sequence_length, row).loads

    def run_length(self, sequence_length: int) -> int:
        """Tokens of such a run, all of which have as many slots; 1 where there are no experts."""
        return 1

    @property
    def whole_because(self) -> str:
        """Why a whole sequence lies on a rank; "" where context parallelism may cut it."""
        return ""

    def of_length(self, sequence_length: int) -> Self:
        """The model for sequences of so many tokens, where its figures say how many they have."""
        return self

    def source_fault(self, source_length: int) -> str:
        """Why the model reads no source of so many tokens; "" where it does, or where none is stated."""
        if source_length and not self.has_encoder:
            return f'source_length = {source_length}, but model "{self.name}" has no encoder that reads a source; leave it out'
        return self.sequence_fault(source_length).replace("sequence_length", "source_length") if source_length else ""

    @property
    def image_tokens(self) -> int:
        """Tokens of a sequence that stand for an image, before those of its text, and of which no loss is; 0 where there are none."""
        return 0

    @property
    def later_loss_weight(self) -> float:
        """What the loss of a module that predicts a later token is multiplied by."""
        return 0.0

    @property
    def steering(self) -> float:
        """How far a step moves the biases that steer choices of experts."""
        return 0.0

    @property
    def slopes(self) -> tuple[float, ...]:
        """By how much each head lowers a score for each token between query and key; () where none does."""
        return ()

    def sequence_fault(self, sequence_length: int) -> str:
        """Why the model takes no sequences of so many tokens; "" where it does."""
        return ""

    @abstractmethod
    def attention_flops_per_token(self, sequence_length: int, source_length: int) -> tuple[int, int]:
        """FLOPs that training a token needs in attention: of the pairs that MFU counts, and of those that the mask leaves."""

    @abstractmethod
    def small_figures(self, tensor_parallel: int) -> dict[str, Any]:
        """The family's own figures in a likeness that is small enough to execute, and that `tensor_parallel` ranks can cut."""

    def small(self, num_layers: int, tensor_parallel: int) -> Self:
        """A likeness of the same architecture that is small enough to execute."""
        own = self.small_figures(tensor_parallel)
        tuning = self.tuning.small(self.num_layers, num_layers, 2 * tensor_parallel)
        return replace(self, num_layers=num_layers, hidden_size=12, ffn_hidden_size=8 * tensor_parallel, tuning=tuning, **own)

    @property
    def widths(self) -> tuple[str, ...]:
        """Figures of which every large tensor has one as an extent."""
        return ("hidden_size",)


def _numbers(value: Any) -> Iterator[float]:
    """Those of a list, and of lists in it."""
    yield from chain.from_iterable(map(_numbers, value)) if isinstance(value, tuple) else (value,)


def layers_in(layout: Layout) -> Layout:
    """What lies between the ends of a model, less the joints of two stacks.

    >>> layers_in((("embedding", 1), ("encoder_layer", 6), (JOINT, 1), ("layer", 6), ("head", 1)))
    (('encoder_layer', 6), ('layer', 6))
    """
    return tuple((name, copies) for name, copies in layout[1:-1] if name not in JOINTS)
