"""The rows of models: a row has the figures of its family's spec as keys."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT
from pydantic import Discriminator, Field, Tag, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from parsim import catalog
from parsim.errors import ParsimError
from parsim.model import families
from parsim.model.routing import RoutedSpec
from parsim.model.spec import Figure, ModelSpec
from parsim.scenario.fields import LIST, VALUE, Known, complaint
from parsim.scenario.huggingface import PREFIX
from parsim.scenario.inline import InlineRow, NameOrRow, resolve
from parsim.scenario.inline import figure as as_figure
from parsim.scenario.tree import show

DEFAULT: Final = "transformer"
_FAMILY: Final = Known("family", families.names)


class ModelRow(InlineRow):
    """A model of any family."""

    kind: ClassVar[str] = "models"
    place: ClassVar[str | None] = "model"
    spec: ClassVar[type[ModelSpec]]
    family: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """The rows of families are forms of this kind, not kinds."""

    @classmethod
    def schema_of(cls, row: Mapping[str, Any]) -> type[InlineRow]:
        """The row class of the family that `row` states, or has from its base; an unknown one is told by any."""
        base = row.get("base")
        inherited = catalog.row("models", base) if isinstance(base, str) and catalog.find("models", base) else {}
        family = {**inherited, **row}.get("family", DEFAULT)
        return row_class(family if isinstance(family, str) and family in families.names() else DEFAULT)

    @classmethod
    def forms(cls) -> tuple[type[InlineRow], ...]:
        """The row class of each family."""
        return tuple(row_class(family) for family in families.names())

    @classmethod
    def _sentence(cls, error: ErrorDetails) -> str:
        key, own = str(error["loc"][-1]) if error["loc"] else "", get_args(cls.model_fields["family"].annotation)[0]
        known = sorted(families.names(), key=lambda name: name != DEFAULT)
        others = [name for name in known if key in families.family(name).spec.figures()]
        if error["type"] == "extra_forbidden" and others:
            return f"a model of family {own} has no {key}, one of family {others[0]} has; leave it out, or set family = {others[0]}"
        return super()._sentence(error)

    @model_validator(mode="before")
    @classmethod
    def _family_is_known(cls, value: Any) -> Any:
        """Told alone: which other keys are right, only a known family could say."""
        family = value.get("family", DEFAULT) if isinstance(value, dict) else DEFAULT
        try:
            _FAMILY.check(family if isinstance(family, str) else show(family))
        except PydanticCustomError as error:
            details = InitErrorDetails(type=error, loc=("family",), input=family)
            raise ValidationError.from_exception_data(cls.__name__, [details]) from None
        return value

    @model_validator(mode="after")
    def _figures_fit(self) -> Self:
        try:
            self.build("")
        except ParsimError as error:
            raise complaint("; ".join(each for each in (error.what, error.remedy) if each)) from None
        return self

    def build(self, name: str) -> ModelSpec:
        """The model."""
        stated = {key: getattr(self, key) for key in self.spec.figures()}
        return self.spec.of(name=self.title(name), source=self.citations(), **as_figure(stated))


@cache
def row_class(family: str) -> type[ModelRow]:
    """The rows of a family, with a key for each figure of its spec."""
    spec = families.family(family).spec
    types = get_type_hints(spec)
    stated = Field(DEFAULT if family == DEFAULT else ..., description=f"{family}; other families have other keys")
    keys: dict[str, Any] = {"family": (Literal[family], stated)}
    for key, figure in spec.figures().items():
        legal, default = _type(types[key], figure), spec.told[key].default
        if figure.rule is not None:
            legal, default = legal | None, None
        required = default is NODEFAULT
        default = list(default) if isinstance(default, tuple) else default
        keys[key] = (legal, Field(... if required else default, description=figure.description))
    row = create_model(f"{family.title()}Row", __base__=ModelRow, __doc__=(spec.__doc__ or "").partition("\n")[0], **keys)
    row.derived = {key: figure.rule for key, figure in spec.figures().items() if figure.rule is not None}
    row.spec, row.hints = spec, {alias: key for key, figure in spec.figures().items() for alias in figure.aliases}
    return row


def _type(kind: type, figure: Figure) -> Any:
    if kind is str:
        return Literal[figure.legal] if figure.legal else str
    limits: dict[str, Any] = figure.limits(kind)
    if kind == tuple[str, ...]:
        return list[_type(str, figure)]  # type: ignore[misc]
    if kind == tuple[int, ...]:
        return list[Annotated[int, Field(**limits)]]
    if get_origin(kind) is tuple:
        number = Annotated[float, Field(**limits)]
        each = Annotated[Annotated[number, Tag(VALUE)] | Annotated[list[number], Tag(LIST)], Discriminator(_number_or_list)]
        return Annotated[list[each], Field(json_schema_extra={"type": ["array", "string"]})]  # or file:PATH
    return Annotated[kind, Field(**limits)] if limits else kind


def _number_or_list(value: object) -> str:
    return LIST if isinstance(value, list | tuple) else VALUE


def expert_layers(row: dict[str, Any]) -> tuple[int, ...] | None:
    """The numbers of the layers of a model that have experts; None where its row is at fault.

    >>> from parsim.scenario import rows  # where the schemas are
    >>> expert_layers({"base": "deepseek-v2-lite"})[:2]
    (1, 2)
    """
    try:
        model = resolve("models", NameOrRow(ModelRow).check(row))
    except (ValidationError, PydanticCustomError):
        return None
    return tuple(filter(model.has_experts, range(model.num_layers))) if isinstance(model, RoutedSpec) else ()


ModelRef = Annotated[str | ModelRow, NameOrRow(ModelRow, prefix=PREFIX)]
