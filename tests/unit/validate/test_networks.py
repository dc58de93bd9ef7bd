"""Where a row of measurements leaves the network between its nodes open."""

from __future__ import annotations

import pytest

from parsim.scenario.left_open import FABRIC
from parsim.scenario.rows import read
from parsim.validate.clusters import ports_of
from parsim.validate.table import TableRow


def row(**said: str) -> TableRow:
    return TableRow(said, {}, {}, ())


@pytest.mark.parametrize(
    ("accelerator", "node", "fabric", "nics"),
    [
        *(("gaudi2", "hls-gaudi2-8", "gaudi2-roce", 8), ("gaudi3", "hls-gaudi3-8", "gaudi3-roce", 8)),
        *(("trainium1", "trn1-32xlarge", "efa-trn1", 8), ("trainium1", "trn1n-32xlarge", "efa-trn1n", 16)),
        ("h100-sxm5-80gb", "hgx-h100-80gb", "ib-ndr-8rail", 8),
        *(("gb300", "gb300-nvl72", "ib-xdr-8rail", 72), ("l40s", "one-l40s", "ib-ndr-8rail", 2)),
    ],
)
def test_nodes_that_a_row_says_nothing_of_are_joined_as_they_usually_are(accelerator: str, node: str, fabric: str, nics: int) -> None:
    found = ports_of(row(accelerator=accelerator), read("nodes", node))
    assert (found.fabric, found.num_nics) == (fabric, nics)


def test_what_a_row_states_goes_before_what_is_usual() -> None:
    stated = row(accelerator="gaudi2", inter_node_link="4x100Gb RoCE")
    assert ports_of(stated, read("nodes", "hls-gaudi2-8")).fabric == "roce-100"


def test_a_card_in_a_slot_is_joined_by_the_default() -> None:
    assert ports_of(row(accelerator="rtx-4090"), read("nodes", "pcie4-8x-rtx-4090")).fabric == FABRIC
