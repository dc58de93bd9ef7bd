"""`parsim execute` of parameter servers: curves of losses, the time to a loss, and what cannot be asked."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from test_cli import call, here

__all__ = ["here"]

SERVED = """
model: digits-mlp
cluster: {node: {base: one-cpu-generic, name: two, devices_per_node: 2, source: made up}}
batch: {global_batch: 4, sequence_length: 1, dtype: fp32}
stack: {base: plain-pytorch, name: numpy, framework_memory: 0 B, communicator_memory: 0 B, source: made up}
plans:
  sums: {data_parallel: 2, micro_batch: 2}
  nobody waits: {data_parallel: 2, micro_batch: 2, gradient_sync: parameter_server}
"""


def test_losses_are_drawn_against_sequences_and_time_and_the_time_to_one_is_told(here: Path) -> None:
    Path("served.yaml").write_text(SERVED)
    told = ("--transport", "lockstep", "--steps", "12", "--to-loss", "100", "--figure", "--out", "drawn", "--json")
    result = call("execute", "served.yaml", *told)
    assert result.exit_code == 0, result.stderr
    document, rows = json.loads(result.stdout), list(csv.DictReader(Path("drawn/loss.csv").read_text().splitlines()))
    assert Path("drawn/loss.png").stat().st_size > 10_000
    for plan in ("sums", "nobody waits"):
        own, found = [row for row in rows if row["plan"] == plan], document["plans"][plan]
        assert [float(row["loss"]) for row in own] == found["losses"]
        assert [int(row["samples"]) for row in own] == [4 * step for step in range(1, 13)]
        # Any loss is below 100, so it is reached as soon as there are ten steps.
        assert found["to_loss"] == {"loss": 100.0, "samples": 40, "virtual_s": float(own[9]["virtual_s"])}
        assert float(own[9]["mean_loss"]) == pytest.approx(sum(found["losses"][:10]) / 10, rel=1e-12)
    assert sum(document["plans"]["nobody waits"]["staleness"].values()) == 24 and document["plans"]["nobody waits"]["num_dropped"] == 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--wall", "--transport", "lockstep"), "--wall: the ranks of lockstep run one at a time"),
        (("--noise-scale", "--steps", "9", "--plan", "nobody waits"), "no optimizer_in_backward or parameter servers"),
    ],
)
def test_what_cannot_be_is_a_sentence(here: Path, asked: tuple[str, ...], said: str) -> None:
    Path("served.yaml").write_text(SERVED)
    result = call("execute", "served.yaml", *asked)
    assert result.exit_code == 2 and said in result.stderr


def test_clocks_that_leave_links_out_say_so(here: Path) -> None:
    """Where nobody asks for clocks there is nothing to say."""
    Path("served.yaml").write_text(SERVED + "disturbance: {jitter: {links: {distribution: gamma, cv: 0.5}}, slow_links: {node 0: 0.5}}\n")
    asked = ("execute", "served.yaml", "--plan", "sums", "--transport", "lockstep", "--steps", "1")
    said = "clocks leave disturbance.jitter.links and disturbance.slow_links out"
    timed, untimed = call(*asked, "--to-loss", "1", "--json"), call(*asked)
    assert (timed.exit_code, untimed.exit_code) == (0, 0), timed.stderr
    assert said in timed.stderr and said not in untimed.stderr
