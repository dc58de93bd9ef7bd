"""Every hardware row of the catalog reads, states a public source for every figure, and is plausible."""

from __future__ import annotations

import csv
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from cluster_rows import DATA, accelerator, cluster, fabric, link, node, rows

from parsim.cluster import attention_s, gemm_s, topology

# Keys that name another row, which has its own sources.
REFERENCES = {"accelerator", "link", "host_link", "nic", "source"}
KINDS = ("accelerators", "links", "nodes", "fabrics", "dtypes")
MEASURED = Path(__file__).resolve().parents[4] / "shared" / "hardware" / "measured_collectives.csv"
KERNELS = MEASURED.parent / "measured_gemm.csv"


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_of_every_row_has_a_source_and_no_source_lacks_its_figure(kind: str) -> None:
    for name, row in rows(kind).items():
        assert set(row["source"]) == set(row) - REFERENCES, (kind, name)
        assert all(len(citation) > 10 for citation in row["source"].values())


@pytest.mark.parametrize("kind", KINDS)
def test_sources_are_public(kind: str) -> None:
    text = (DATA / f"{kind}.yaml").read_text(encoding="utf-8")
    assert not re.search(r"MODELS|shared/|\.csv|fitted_|reference_models", text)


def test_every_row_becomes_its_dataclass() -> None:
    assert {accelerator(name).name for name in rows("accelerators")} >= {
        "v100-sxm2-16gb",
        "a100-sxm4-80gb",
        "h100-sxm5-80gb",
        "cpu-generic",
    }
    assert all(link(name).bandwidth_bytes_per_s > 1e9 for name in rows("links"))
    assert all(1e-7 < link(name).latency_s < 1e-5 for name in rows("links"))
    for name in rows("nodes"):
        assert topology.topology(node(name).topology, "node")
    for name in rows("fabrics"):
        assert topology.topology(fabric(name).topology, "fabric")


def test_figures_are_those_of_the_datasheets() -> None:
    a100, h100, v100 = (accelerator(name) for name in ("a100-sxm4-80gb", "h100-sxm5-80gb", "v100-sxm2-32gb"))
    assert (a100.peak("bf16"), h100.peak("bf16"), v100.peak("fp16")) == (312e12, 989e12, 125e12)
    assert (a100.hbm_bandwidth_bytes_per_s, h100.hbm_bandwidth_bytes_per_s, v100.hbm_bandwidth_bytes_per_s) == (2039e9, 3350e9, 900e9)
    assert (a100.num_multiprocessors, h100.num_multiprocessors, v100.num_multiprocessors) == (108, 132, 80)
    assert 79 * 2**30 < a100.hbm_capacity_bytes < 80 * 2**30
    assert [link(name).bandwidth_bytes_per_s for name in ("nvlink2", "nvlink3", "nvlink4", "ib-edr", "ib-hdr", "ib-ndr")] == [
        150e9,
        300e9,
        450e9,
        12.5e9,
        25e9,
        50e9,
    ]
    assert {name: row["itemsize"] for name, row in rows("dtypes").items()} == {
        "fp32": "4 B",
        "tf32": "4 B",
        "bf16": "2 B",
        "fp16": "2 B",
        "fp8": "1 B",
    }


def errors(kind: str, hardware: str, node_name: str) -> list[float]:
    """|predicted / measured - 1| of the sweeps of one node, 512 B to 512 MiB on 2, 4 and 8 devices."""
    where, found = cluster(node_name), []
    with MEASURED.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["hardware"] != hardware or not row["source_id"].startswith("aic-") or row["collective"] not in kind.split():
                continue
            ranks, size = int(row["n_gpus"]), float(row["message_bytes"])
            operation = row["collective"].replace("alltoall", "all_to_all")
            turns = 2 if operation == "all_reduce" else 1
            predicted = where.collective_s(operation, turns * (ranks - 1) / ranks * size, turns * (ranks - 1), ranks, 1)
            found.append(abs(float(np.asarray(predicted)) * 1e6 / float(row["time_us"]) - 1))
    return found


@pytest.mark.skipif(not MEASURED.exists(), reason="the measurements are not part of the package")
@pytest.mark.parametrize(("hardware", "name"), [("A100-SXM", "dgx-a100-80gb"), ("H100-SXM", "hgx-h100-80gb")])
@pytest.mark.parametrize("kind", ["all_reduce all_gather reduce_scatter", "alltoall"])
def test_collectives_in_a_node_are_within_10_percent_of_the_measured_median(hardware: str, name: str, kind: str) -> None:
    found = errors(kind, hardware, name)
    assert len(found) >= 60
    assert statistics.median(found) < 0.10


@pytest.mark.skipif(not MEASURED.exists(), reason="the measurements are not part of the package")
def test_all_reduce_across_h100_nodes_is_within_10_percent_of_the_measured_median() -> None:
    where, found = cluster("hgx-h100-80gb", 1024, "ib-ndr-8rail"), []
    with MEASURED.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["source_id"] == "nv-gtc24-nvlstree" and row["time_us"]:
                ranks, size = int(row["n_gpus"]), float(row["message_bytes"])
                predicted = where.collective_s("all_reduce", 2 * (ranks - 1) / ranks * size, 2 * (ranks - 1), ranks, 1)
                found.append(abs(float(np.asarray(predicted)) * 1e6 / float(row["time_us"]) - 1))
    assert len(found) > 50
    assert statistics.median(found) < 0.10


@pytest.mark.skipif(not KERNELS.exists(), reason="the measurements are not part of the package")
@pytest.mark.parametrize(("hardware", "name"), [("A100-SXM", "a100-sxm4-80gb"), ("H100-SXM", "h100-sxm5-80gb")])
def test_gemm_and_attention_are_within_10_percent_of_the_measured_median(hardware: str, name: str) -> None:
    device = accelerator(name)
    with KERNELS.open(newline="", encoding="utf-8") as file:
        table = [row for row in csv.DictReader(file) if row["hardware"] == hardware and row["source_id"].startswith("aic-")]
    m, n, k, time_us = np.array(
        [[float(row[x]) for x in ("m", "n", "k", "time_us")] for row in table if row["dtype"] == "bfloat16" and row["m"]]
    ).T
    predicted = np.asarray(gemm_s(device, 2 * m * n * k, 2 * (m * k + k * n + m * n), "bf16", sustained=1.0))
    assert statistics.median(np.abs(predicted * 1e6 / time_us - 1)) < 0.10
    columns = ("batch", "seq", "heads", "kv_heads", "head_dim", "time_us")
    rows_ = [
        [float(row[x]) for x in columns]
        for row in table
        if row["op"] == "attention" and row["head_dim"] == "128" and row["causal"] in ("1", "True")
    ]
    batch, sequence, heads, kv_heads, width, time_us = np.array(rows_).T
    flops, bytes_ = 2 * batch * heads * sequence**2 * width, 4 * width * batch * sequence * (heads + kv_heads)
    predicted = np.asarray(attention_s(device, flops, bytes_, batch * heads * np.ceil(sequence / 128), width, "bf16", sustained=1.0))
    assert statistics.median(np.abs(predicted * 1e6 / time_us - 1)) < 0.10
