"""The section `disturbance` of a scenario file, and what is wrong with it on a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from parsim.scenario.disturbance import DISTRIBUTIONS, LEAST_CV, MOST_CV, PASS, SPANS, Disturbance, Jitter, Stragglers
from parsim.scenario.fields import Fraction, Section, complaint, optional
from parsim.scenario.tree import Place, show

MOST_SAMPLES: Final = 1_000_000
_NODE: Final = "node "
_NUMBER: Final = "(0|[1-9][0-9]{0,8})"


class _Place:
    """Annotates text that says which device or node is meant, both counted from 0."""

    def __init__(self, pattern: str, said: str) -> None:
        self.pattern, self.said = pattern, said

    def check(self, key: str) -> str:
        """The key, if it is one."""
        if not re.fullmatch(self.pattern, key):
            raise complaint(f"write {self.said}, both counted from 0, not {show(key)}")
        return key

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, core_schema.str_schema(strict=True))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: object) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{self.pattern}$"}


_DeviceKey = Annotated[str, _Place(f"({_NODE})?{_NUMBER}", "a device as its number, or a node as 'node 3'")]
_NodeKey = Annotated[str, _Place(f"{_NODE}{_NUMBER}", "a node as 'node 3'")]
_Factor = Annotated[float, Field(ge=1, le=1000)]
_DISTRIBUTION: Any = Literal[DISTRIBUTIONS]
_PER: Any = Literal[SPANS]


def _as_text(value: object) -> object:
    """Numbers of devices, which YAML reads as such, as the text that keys are."""
    if not isinstance(value, dict):
        return value
    keys = [str(key) if isinstance(key, int) and not isinstance(key, bool) else key for key in value]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise complaint(f"{show(twice)} is there twice, once as a number")
    return dict(zip(keys, value.values(), strict=True))


class JitterSection(Section):
    """Factors of time that are drawn around a mean of 1."""

    distribution: _DISTRIBUTION = Field(description="what factors follow; all have a mean of 1, an exponential one is shifted")
    cv: Annotated[float, Field(ge=0, le=10)] = Field(description="the coefficient of variation: standard deviation over mean")
    per: _PER = Field(PASS, description="how long a draw holds: a pass of a micro_batch, or a whole step")

    @model_validator(mode="after")
    def _check_cv(self) -> Self:
        if 0 < self.cv < LEAST_CV:
            raise complaint(f"cv must be 0 or at least {LEAST_CV:.4g}, below which no clock can tell, not {self.cv}")
        most = MOST_CV[self.distribution]
        if self.cv > most:
            raise complaint(
                f"cv of a factor that is {self.distribution} must be at most {most:.4g}, beyond which it falls below 0; take gamma"
            )
        return self

    def build(self) -> Jitter:
        """What it says."""
        return Jitter(self.distribution, self.cv, self.per)


class JittersSection(Section):
    """Jitter, by what it is of."""

    kernels: JitterSection | None = Field(None, description="of kernels: a draw of each device, for each pass of a micro_batch")
    links: JitterSection | None = Field(
        None, description="of links: a draw of each message, and of each device for the collectives of a pass"
    )


class StragglersSection(Section):
    """Devices that are slow in some steps, each in each step by itself."""

    probability: Annotated[float, Field(ge=0, le=1)] = Field(description="that a device is slow in a step")
    factor: _Factor = Field(description="how many times as long its kernels take then")


class DisturbanceSection(Section):
    """What disturbs a step: its time becomes a distribution."""

    jitter: JittersSection | None = Field(
        None, description="factors drawn for kernels and links: {kernels: {distribution: gamma, cv: 0.05}}"
    )
    stragglers: StragglersSection | None = Field(None, description="devices that are slow in some steps")
    slow_devices: Annotated[dict[_DeviceKey, _Factor], BeforeValidator(_as_text)] = optional(
        dict, "factors of the time of kernels, by device from 0 or by node: {5: 1.1, node 3: 1.2}"
    )
    slow_links: Annotated[dict[_NodeKey, Fraction], BeforeValidator(_as_text)] = optional(
        dict, "the share of their bandwidth that the NICs of a node reach: {node 3: 0.5}"
    )
    imbalance: bool = Field(
        True, description="whether it is drawn which documents a micro_batch has, where batch.lengths are packed; else each has the mean"
    )
    samples: Annotated[int, Field(gt=0, le=MOST_SAMPLES)] = Field(1000, description="the steps that are drawn")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="the seed of the draws")

    def build(self) -> Disturbance:
        """What it says."""
        jitter = self.jitter or JittersSection.model_validate({})
        nodes = {key.removeprefix(_NODE): factor for key, factor in self.slow_devices.items() if key.startswith(_NODE)}
        devices = {key: factor for key, factor in self.slow_devices.items() if not key.startswith(_NODE)}
        return Disturbance(
            kernels=None if jitter.kernels is None else jitter.kernels.build(),
            links=None if jitter.links is None else jitter.links.build(),
            stragglers=None if self.stragglers is None else Stragglers(self.stragglers.probability, self.stragglers.factor),
            slow_devices=_by_number(devices),
            slow_nodes=_by_number(nodes),
            slow_links=_by_number({key.removeprefix(_NODE): share for key, share in self.slow_links.items()}),
            imbalance=self.imbalance,
            samples=self.samples,
            seed=self.seed,
        )


def _by_number(values: Mapping[str, float]) -> dict[int, float]:
    return {int(key): value for key, value in values.items()}


def section_of(disturbance: Disturbance) -> dict[str, Any]:
    """What a file would say of it.

    >>> section_of(Disturbance(slow_nodes={3: 1.2}))
    {'slow_devices': {'node 3': 1.2}, 'slow_links': {}, 'imbalance': True, 'samples': 1000, 'seed': 0}
    """
    jitters = {"kernels": disturbance.kernels, "links": disturbance.links}
    found: dict[str, Any] = {
        "jitter": {name: {key: getattr(each, key) for key in ("distribution", "cv", "per")} for name, each in jitters.items() if each}
    }
    if (often := disturbance.stragglers) is not None:
        found["stragglers"] = {"probability": often.probability, "factor": often.factor}
    nodes = {f"{_NODE}{number}": factor for number, factor in disturbance.slow_nodes.items()}
    return {
        **{key: each for key, each in found.items() if each},
        "slow_devices": {**{str(number): factor for number, factor in disturbance.slow_devices.items()}, **nodes},
        "slow_links": {f"{_NODE}{number}": share for number, share in disturbance.slow_links.items()},
        **{key: getattr(disturbance, key) for key in ("imbalance", "samples", "seed")},
    }


def disturbance_faults(disturbance: Disturbance, num_devices: int, num_nodes: int) -> Iterator[tuple[Place, str]]:
    """What it names and the cluster has not, each with its place in the section."""
    for device in disturbance.slow_devices:
        if device >= num_devices:
            yield ("slow_devices", str(device)), f"there is no device {device}: the cluster has {num_devices}, from 0 to {num_devices - 1}"
    for key, of_nodes in (("slow_devices", disturbance.slow_nodes), ("slow_links", disturbance.slow_links)):
        for node in of_nodes:
            if node >= num_nodes:
                yield (key, f"{_NODE}{node}"), f"there is no node {node}: the cluster has {num_nodes}, from 0 to {num_nodes - 1}"
