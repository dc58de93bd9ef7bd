"""Every row says where its figures are from, in public or as an assumption, and its figures are in an order that hardware has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from parsim import catalog
from parsim.scenario.rows import read

DATA = Path(catalog.__file__).parent / "data"
CODE = Path(catalog.__file__).parents[1]
# A page, a repository, a paper, a vendor's paper, a standard, or tables and logs that anybody can open.
CITED = re.compile(
    r"https?://|\b(www|docs|aws)\.|@[0-9a-f]{7,}|\b[\w.-]+/[\w.-]+|arXiv|et al\.|[Dd]ata ?sheet|white paper|documentation|specifica|IEEE"
    r"|aiconfigurator|ML-Engineering|PCI-SIG|NCCL|AWS [A-Z]|HPE|Intel|Google Cloud|torch|CUDA|port \(|[0-9]+ ?(GbE|Gb/s)"
)
OWN = re.compile("chosen for verification|an assumption of this row|by definition|of scale")  # rows that stand for no product
ORDER = ("fp8", "bf16", "tf32", "fp32")  # the narrower multiplies no slower; fp16 as bf16 but on a Gaudi 3


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in catalog.kinds() for name in catalog.names(kind)])
def test_every_row_cites_what_anybody_can_open_or_stands_for_no_product(kind, name):
    sources = catalog.row(kind, name)["source"].values()
    assert any(CITED.search(each) or OWN.search(each) for each in sources), sources


def test_no_figure_is_recalled():
    paths = [path for end in ("*.yaml", "*.py") for path in CODE.rglob(end)]
    assert CODE / "cluster" / "flash.py" in paths and DATA / "nodes.yaml" in paths
    for path in paths:
        assert not re.search(r"recalled|not opened|unverified|could not be opened", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("name", catalog.names("accelerators"))
def test_a_row_of_hardware_names_a_public_source_of_its_own_peak_and_memory(name):
    sources = catalog.row("accelerators", name)["source"]
    for figure in ("peak", "hbm_bandwidth"):
        papers = r"datasheet|white paper|product brief|Hot Chips|docs\.|documentation|ML-Engineering|aiconfigurator|public|torchtitan"
        assert re.search(papers + "|arithmetic", sources[figure]), sources[figure]


@pytest.mark.parametrize("name", catalog.names("accelerators"))
def test_figures_of_an_accelerator_are_in_order(name):
    device = read("accelerators", name)
    peaks = [device.peak_flops_per_s[dtype] for dtype in ORDER if dtype in device.peak_flops_per_s]
    assert peaks == sorted(peaks, reverse=True)
    most = max(device.peak_flops_per_s.values())
    assert 5e12 < most < 2e16
    half = device.peak_flops_per_s.get("fp16", peaks[0])
    assert half <= peaks[0] if "bf16" in device.peak_flops_per_s else half > peaks[0]
    assert 2e11 < device.hbm_bandwidth_bytes_per_s < 1e13 and 10e9 < device.hbm_capacity_bytes < 600e9
    # Memory is read through in 10 ms (HBM) to 2 s (a CPU's), and a matrix unit needs 20 to 1300 operations a byte; in 4 bits twice as many.
    assert 0.01 < device.hbm_capacity_bytes / device.hbm_bandwidth_bytes_per_s < 2
    assert (
        20 < most / (2 if "nvfp4" in device.peak_flops_per_s else 1) / device.hbm_bandwidth_bytes_per_s < 1300
    )  # 8 bits on the H100 of 64 GB


# The figures of vendors' pages, each opened: docs.cloud.google.com/tpu/docs, PCI-SIG, NVIDIA's and AMD's datasheets.
@pytest.mark.parametrize(
    ("name", "dtype", "tera"),
    [
        *(("tpu-v3", "bf16", 123), ("tpu-v6e", "bf16", 918), ("tpu-v6e", "fp8", 918), ("tpu-v7x", "fp8", 4614), ("b200", "fp32", 75)),
        *(("t4", "fp16", 65), ("a10", "bf16", 125), ("l4", "bf16", 121), ("a30", "bf16", 165), ("a40", "bf16", 149.7)),
        *(("rtx-5090", "bf16", 209.5), ("gh200-96gb", "bf16", 989), ("h200-nvl", "bf16", 835), ("mi325x", "bf16", 1307.4)),
    ],
)
def test_a_peak_is_that_of_the_vendors_page(name, dtype, tera):
    assert read("accelerators", name).peak_flops_per_s[dtype] == tera * 1e12


@pytest.mark.parametrize(("name", "tera"), [("gh200-96gb", 4.0), ("gh200-144gb", 4.9), ("h200", 4.8)])
def test_a_memory_has_the_bandwidth_of_the_vendors_page(name, tera):
    assert read("accelerators", name).hbm_bandwidth_bytes_per_s == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
    ("name", "giga"),
    [
        ("pcie6", 121),
        ("nvlink-c2c", 450),
        ("ici-v3", 332),
        ("ici-v5e", 200),
        ("ici-v5p", 600),
        ("ici-v6e", 400),
        ("ici-v7x", 600),
        ("neuronlink2", 103),
    ],
)
def test_a_link_is_that_of_the_vendors_page(name, giga):
    assert read("links", name).bandwidth_bytes_per_s == giga * 1e9


def test_hosts_of_grace_are_joined_by_nvlink():
    for name in ("gb200-nvl72", "gb200-tray", "gb300-nvl72", "gb300-tray", "alps-gh200", "one-gh200"):
        assert read("nodes", name).host_link.name == "nvlink-c2c"


@pytest.mark.parametrize("name", ["deepspeed", "hf-trainer", "lightning"])
def test_a_stack_says_what_of_it_is_documented_and_what_assumed(name):
    sources = catalog.row("stacks", name)["source"].values()
    assert any(each.startswith("documented") and "@" in each for each in sources) and any(each.startswith("assumed") for each in sources)


def test_what_a_collective_costs_kernels_is_the_share_of_multiprocessors_that_its_source_says():
    rows = {name: catalog.row("accelerators", name) for name in catalog.names("accelerators")}
    said = {
        name: re.search(r"(\d+) of (\d+) (multiprocessors|compute units)", row["source"].get("beside", "")) for name, row in rows.items()
    }
    for name, match in said.items():
        if match:
            held, of_all = int(match[1]), int(match[2])
            assert of_all == rows[name]["num_multiprocessors"], name
            assert round(held / of_all, 3) == rows[name]["beside"]["all_reduce"], name
    measured = {name for name, row in rows.items() if row.get("beside") and not said[name]}
    assert {"mi250x", "mi300x"} <= measured and not any(name.startswith(("a100", "h100", "b200", "rtx")) for name in measured)
