"""Prices are of nodes that the catalog knows, a device at a time, dated and with a source; the scenario's goes before them."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import pytest

from parsim import catalog, units
from parsim.scenario import Scenario, from_mapping
from parsim.scenario.rows import read


@pytest.mark.parametrize("name", [*catalog.names("prices"), *catalog.aliases("prices")])
def test_a_price_is_that_of_a_node_over_its_devices(name: str) -> None:
    node = read("nodes", catalog.find("nodes", name))
    source = catalog.row("prices", name)["source"]["device_hour"]
    usd, devices = re.match(r"(\S+) USD for (\d+), ", source).groups()  # type: ignore[union-attr]
    assert int(devices) == node.devices_per_node
    assert Fraction(read("prices", name).device_hour_usd).limit_denominator(10**9) == Fraction(usd) / int(devices)
    assert re.search(r"skypilot@[0-9a-f]{8} |20\d\d: ", source)  # a version that can be opened, or a date


def scenario(node: Any, **others: Any) -> Scenario:
    cluster = {"node": node, **others}
    batch = {"global_batch": 8, "sequence_length": 2048}
    return from_mapping({"model": "gpt3-13b", "cluster": cluster, "batch": batch, "plans": {"a": {"data_parallel": 8}}})


@pytest.mark.parametrize(
    ("node", "usd"),
    [
        *(("p5.48xlarge", 55.04 / 8), ("BM.GPU.H100.8", 10), ("gpu_8x_h100_sxm5", 3.99), ("Standard_ND96isr_H100_v5", 12.29)),
        *(({"base": "p5-48xlarge", "host_memory_capacity": "1 TB", "source": "mine"}, 6.88), ("hgx-h100-80gb", None)),
    ],
)
def test_a_node_costs_what_its_provider_lists(node: Any, usd: float | None) -> None:
    rent = scenario(node).cluster.rent
    assert (rent and rent.device_hour_usd) == (usd and pytest.approx(usd))


def test_a_stated_price_goes_before_the_list() -> None:
    rent = scenario("p5.48xlarge", price_per_device_hour="2.5 USD").cluster.rent
    assert rent is not None and (rent.device_hour_usd, rent.source) == (2.5, "the scenario")


# NVIDIA's and AMD's data sheets, as ML-Engineering and aiconfigurator repeat them.
@pytest.mark.parametrize(
    ("name", "watts"),
    [("a100-sxm4-40gb", 400), ("h100-sxm5-80gb", 700), ("h200", 700), ("h200-nvl", 600), ("b200", 1000), ("mi300x", 750), ("l4", 72)],
)
def test_a_device_is_built_for_the_power_of_its_data_sheet(name: str, watts: float) -> None:
    assert read("accelerators", name).tdp_w == watts


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("1T", 10**12), ("2e12", 2 * 10**12), ("300 G tokens", 3 * 10**11), ("15B", 15 * 10**9), (5000, 5000), ("1.5 k tokens", 1500)],
)
def test_tokens_are_read_with_and_without_a_unit(text: object, tokens: int) -> None:
    assert units.parse(text, "token") == tokens
