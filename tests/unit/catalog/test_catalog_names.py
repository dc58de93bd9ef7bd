"""Every name of the catalog: rows and aliases, what an unknown one is told, and rows that are like another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from parsim import catalog, scenario
from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate
from parsim.report import rows as report
from parsim.report.summary import headline
from parsim.scenario.asked import about_value
from parsim.scenario.rows import read

KINDS = catalog.kinds()
ALIASES = [(kind, name) for kind in KINDS for name in catalog.aliases(kind)]
CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"


@pytest.mark.parametrize("kind", KINDS)
def test_an_alias_is_another_name_of_a_row_with_a_source(kind):
    plain = [re.sub(r"[ ._]", "-", name.lower()) for name in (*catalog.names(kind), *catalog.aliases(kind))]
    assert len(set(plain)) == len(plain)  # no two names that spelling alone tells apart
    for name, alias in catalog.aliases(kind).items():
        assert set(alias) == {"same_as", "source"} and len(alias["source"]) > 10
        assert alias["same_as"] in catalog.names(kind)
        assert catalog.find(kind, name) == catalog.find(kind, name.upper()) == alias["same_as"]
        assert catalog.row(kind, name) == catalog.row(kind, alias["same_as"])
        assert read(kind, name) == read(kind, alias["same_as"])


# Vendors' pages: devices of a machine.
@pytest.mark.parametrize(
    ("name", "devices", "accelerator"),
    [
        *(("g5.48xlarge", 8, "a10g"), ("g5.12xlarge", 4, "a10g"), ("g5.2xlarge", 1, "a10g"), ("g6.48xlarge", 8, "l4")),
        *(("g6e.48xlarge", 8, "l40s"), ("g4dn.metal", 8, "t4"), ("g4dn.12xlarge", 4, "t4")),
        *(("p3.2xlarge", 1, "v100-sxm2-16gb"), ("p3.8xlarge", 4, "v100-sxm2-16gb"), ("p3.16xlarge", 8, "v100-sxm2-16gb")),
        *(("p3dn.24xlarge", 8, "v100-sxm2-32gb"), ("p4d.24xlarge", 8, "a100-sxm4-40gb"), ("p4de.24xlarge", 8, "a100-sxm4-80gb")),
        *(("p5.48xlarge", 8, "h100-sxm5-80gb"), ("p5en.48xlarge", 8, "h200"), ("p6-b200.48xlarge", 8, "b200")),
        *(("a2-highgpu-8g", 8, "a100-sxm4-40gb"), ("a2-ultragpu-8g", 8, "a100-sxm4-80gb"), ("a3-highgpu-8g", 8, "h100-sxm5-80gb")),
        *(("a3-megagpu-8g", 8, "h100-sxm5-80gb"), ("a3-ultragpu-8g", 8, "h200"), ("a4-highgpu-8g", 8, "b200"), ("g2-standard-96", 8, "l4")),
        *(("Standard_ND96asr_v4", 8, "a100-sxm4-40gb"), ("Standard_ND96amsr_A100_v4", 8, "a100-sxm4-80gb")),
        *(("Standard_ND96isr_H100_v5", 8, "h100-sxm5-80gb"), ("ND96isr_MI300X_v5", 8, "mi300x"), ("BM.GPU4.8", 8, "a100-sxm4-40gb")),
        *(("dgx-h100", 8, "h100-sxm5-80gb"), ("trn1.32xlarge", 32, "trainium1"), ("trn2.48xlarge", 16, "trainium2")),
    ],
)
def test_a_machine_has_the_devices_that_its_vendor_says(name, devices, accelerator):
    node = read("nodes", name)
    assert (node.devices_per_node, node.accelerator.name) == (devices, accelerator)


@pytest.mark.parametrize(
    ("name", "nics"),
    [("ND40rs_v2", 1), ("g6e.48xlarge", 4), ("g6e.24xlarge", 2), ("g6e.12xlarge", 1), ("g5.48xlarge", 1), ("p4d.24xlarge", 4)],
)
def test_a_machine_has_the_network_cards_that_are_listed(name, nics):
    """Of AWS: aws/amazon-vpc-cni-k8s@b5218838, pkg/vpc/vpc_ip_resource_limit.go."""
    assert read("nodes", name).num_nics == nics


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        *(("accelerators", name, "a100-sxm4-80gb") for name in ("a100-smx4-80gb", "a100-sxm4-80", "A100 smx4-80GB")),
        *(("nodes", "g5.48xlrge", "g5-48xlarge"), ("fabrics", "ethernt-25g", "ethernet-25g")),
        *(("models", "lama2-7b", "llama2-7b"), ("models", "gpt3-175", "gpt3-175b"), ("models", "gtp3-6.7b", "gpt3-6.7b")),
    ],
)
def test_an_unknown_name_is_told_its_spelling(kind, name, meant):
    assert catalog.hint(kind, name) == f" (did you mean '{meant}'?)"
    with pytest.raises(ParsimError, match="unknown"):
        catalog.row(kind, name)


# Real names, and made-up ones, of which the catalog has another size, version or neighbour only.
OTHERS = {
    "accelerators": "a100-60gb mi300a b100 l40 t4g h100-nvl rtx-6000-ada rtx-4090d h20.0 a1.0 a10.0 gh20 tpu-v5 tpu-v6 trainium3 gaudi "
    "mi300 l4s h100-pcie-96gb v100s-pcie-32gb b200a h800-pcie-80gb rtx-a4000 a100x a16 a2 gb100",
    "nodes": "g7.48xlarge dgx-h300 g5g.xlarge hgx-b100 dgx-2 one-v100 pcie4-4x-rtx-4090 g2-standard-48 NC96ads_A100_v4 trn1.2xlarge "
    "g5.large p5.4xlarge p4de.12xlarge a3-highgpu-4g gb200-nvl36 dgx-spark tpu-v5p-8x8x16 p6e-gb200.36xlarge h200-nvl-8 mi300a-4",
    "fabrics": "ib-fdr ib-qdr ethernet-2.5g ethernet-1.0g ethernet-10.0g ethernet-1g ethernet-40g ib-ndr-4rail roce-200 "
    "slingshot-10 omni-path-400 gcp-a3ultra ib-ndr-8rails-x",
    "links": "nvlink6 pcie7 ici-v7 ib-fdr",
    "models": "mixtral-7b llama2-8b llama2-34b llama2-1.3b gpt3-1.3b gpt3-2.7b gpt3-67b Qwen2-57b qwen1.5-7b qwen2.5-70b megatron-2.2b "
    "megatron-1.75b nemotron-4-1.5b mistral-7b-v0.3 mistral-70b llama4-8b gpt4 gpt2-large-v2 llama3.2-4b llama3-8.0b",
    "stacks": "deepspeed-2 nemo-2",
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in OTHERS.items() for name in names.split()])
def test_another_size_version_or_hardware_is_never_offered(kind, name):
    assert not catalog.find(kind, name) and catalog.hint(kind, name) == ""


def changed(name):
    """A name with each of its numbers made another: longer, cut, or with a point; and with a letter more behind it."""
    for found in re.finditer(r"\d+", name):
        number, before, after = found.group(), name[: found.start()], name[found.end() :]
        yield from (f"{before}{number}7{after}", f"{before}1{number}{after}", f"{before}{number}.5{after}", f"{before}{number}q{after}")
        if len(number) > 1:
            yield from (f"{before}{number[:-1]}{after}", f"{before}{number[0]}.{number[1:]}{after}")
    yield re.sub(r"(\d)[.-](?=\d)", r"\1", name)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in (*catalog.names(kind), *catalog.aliases(kind))])
def test_a_name_with_another_number_is_never_taken_for_it(kind, name):
    for other in changed(name):
        if not catalog.find(kind, other):
            hint = catalog.hint(kind, other)
            meant = re.findall("'(.*?)'", hint)
            assert all(re.findall(r"\d+", each.lower()) == re.findall(r"\d+", other) for each in meant), (other, hint)
            assert name not in meant
            assert "did you mean" not in about_value(kind.removesuffix("s"), other, catalog.names(kind)) or meant, other


def like(kind):
    text = (Path(catalog.__file__).parent / "data" / f"{kind}.yaml").read_text(encoding="utf-8")
    return re.findall(r"^(\S+):\n  like: (\S+)$", text, flags=re.M)


@pytest.mark.parametrize("kind", ["accelerators", "nodes"])
def test_a_figure_of_a_row_that_is_like_another_says_that_it_is_assumed(kind):
    assert like(kind)
    for name, other in like(kind):
        row, relative = catalog.row(kind, name), catalog.row(kind, other)
        assumed = {key for key, source in row["source"].items() if source.startswith(f"assumed: as of {other}, ")}
        assert assumed and {key: row[key] for key in assumed} == {key: relative[key] for key in assumed}
        assert "like" not in row and "like" not in row["source"]
        assert kind == "nodes" or assumed >= {"elementwise", "sustained_factor"}
        shown = report.find_rows(name)[kind]
        assert any(each["source"].startswith("assumed: ") for each in shown)


def test_what_an_alias_stands_for_is_shown_first():
    (first, *_) = report.find_rows("a3-megagpu-8g")["nodes"]
    assert (first["figure"], first["value"]) == ("same_as", "hgx-h100-80gb") and "gcp-a3mega" in first["source"]


def text_of(node, dtype, fabric=""):
    cluster = f"{{node: {node}, num_nodes: 2, fabric: {fabric}}}" if fabric else f"{{node: {node}}}"
    return f"model: tiny-gpt\ncluster: {cluster}\nbatch: {{global_batch: 9216, sequence_length: 16, dtype: {dtype}}}\nplans: {{a: {{}}}}\n"


@pytest.mark.parametrize("name", [*(name for name, _ in like("nodes")), *(name for kind, name in ALIASES if kind == "nodes")])
def test_a_new_name_runs_a_small_scenario(name, tmp_path):
    node = read("nodes", name)
    dtype = "bf16" if "bf16" in node.accelerator.peak_flops_per_s else "fp16"
    path = tmp_path / "s.yaml"
    path.write_text(text_of(name, dtype), encoding="utf-8")
    found = scenario.load(path)
    assert found.cluster.node == read("nodes", catalog.find("nodes", name))
    assert 0 < estimate(found, "a").step_s < 60


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not part of the package")
@pytest.mark.parametrize(
    ("case", "node", "devices"),
    [("a3mega", "hgx-h100-80gb", 16), ("g5", "g5-48xlarge", 8), ("v100four", "dgx-1v-16gb (changed)", 4)],
)
def test_a_case_is_read_as_what_it_names(case, node, devices):
    found = scenario.load(CASES / f"{case}.yaml")
    assert (found.cluster.node.name, found.cluster.num_devices) == (node, devices)


RELEASE = """
mine-26.04: &mine
  attention: flash
  source: made up
mine-26.4.1: {<<: *mine, host_launch: 1 us}
mine-25.11: {<<: *mine, attention: unfused}
mine-25.09: {<<: *mine}
"""


@pytest.fixture
def released(tmp_path, monkeypatch):
    """The catalog read from a folder with releases of one more stack, and forgotten again."""
    file = tmp_path / "stacks.yaml"
    file.write_text((Path(catalog.__file__).parent / "data" / "stacks.yaml").read_text(encoding="utf-8") + RELEASE)
    shipped = catalog._text
    monkeypatch.setattr(catalog, "_text", lambda kind: file.read_text() if kind == "stacks" else shipped(kind))
    caches = (catalog._row, catalog._texts, catalog._spellings, read)
    for each in caches:
        each.cache_clear()
    yield file
    for each in caches:
        each.cache_clear()


@pytest.mark.usefixtures("released")
def test_a_release_is_one_more_row_of_a_file_and_the_name_alone_is_the_newest():
    assert catalog.releases("stacks", "Mine") == ("26.4.1", "26.04", "25.11", "25.09")
    newest = read("stacks", "mine")
    assert (newest.name, newest.host_launch_s, newest.attention) == ("mine-26.4.1", 1e-6, "flash")
    assert read("stacks", "mine-25.11").attention == "unfused"
    (shown, *_) = report.find_rows("mine")["stacks"]
    assert shown == {"figure": "same_as", "value": "mine-26.4.1", "source": "the newest release of mine"}
    assert {"name": "mine-26.4.1", "newest of": "mine"}.items() <= report.listing("stacks")[-3].items()
    near = {"26.04": "26.04", "26.05": "26.4.1", "26.04.00": "26.04", "26.03": "25.11", "25": "25.09", "": "26.4.1"}
    assert {asked: catalog.release("stacks", "mine", asked) for asked in near} == {asked: f"mine-{row}" for asked, row in near.items()}
    with pytest.raises(ParsimError, match="'main' is no release of mine"):
        catalog.release("stacks", "mine", "main")


@pytest.mark.parametrize(
    ("name", "known"),
    [("megatron-2023", "2022, 2021"), ("pytorch-1", "2"), ("mine-26.06", "26.4.1, 26.04, 25.11, 25.09"), ("mine-26.4.1.0", "26.4.1, ")],
)
def test_an_unknown_release_is_told_the_known_ones(name, known, released):
    stem = name.rpartition("-")[0]
    assert not catalog.find("stacks", name)
    assert f" (releases of {stem}: {known}" in catalog.hint("stacks", name) == about_value("stack", name, catalog.names("stacks"))
    for ask in (lambda: catalog.row("stacks", name), lambda: report.find_rows(name)):
        with pytest.raises(ParsimError, match=re.escape(f"(releases of {stem}: {known}")):
            ask()


@pytest.mark.parametrize(
    ("stack", "said"),
    [
        ("zero-bubble", "zero-bubble-2023"),
        ("Megatron_Bridge 25.11", "megatron-bridge-25.11"),
        ({"base": "zero-bubble"}, "zero-bubble-2023 (changed)"),
    ],
)
def test_the_first_line_of_a_report_says_which_release_was_taken(stack, said):
    batch = {"global_batch": 8, "sequence_length": 128, "dtype": "bf16"}
    plans = {"plans": {"any": {"data_parallel": 8}}}
    mapping = {"model": "gpt2-small", "cluster": {"node": "dgx-a100-80gb"}, "batch": batch, "stack": stack, **plans}
    assert headline(scenario.from_mapping(mapping)).endswith(f", {said}")
