"""Every row of the catalog can be read, every figure of it has a source, and the models are those of their papers."""

from __future__ import annotations

import math
from importlib import resources

import pytest
from msgspec.structs import asdict
from ruamel.yaml import YAML

from hf_configs import PUBLISHED
from parsim import catalog
from parsim.errors import ParsimError
from parsim.scenario.rows import read

REFERENCES = {"accelerator", "link", "host_link", "nic"}  # names of other rows, which have their own sources


def test_the_catalog_has_all_kinds_of_rows():
    kinds = ("accelerators", "dtypes", "fabrics", "failures", "inputs", "links", "models", "nodes", "prices", "stacks", "storage")
    assert catalog.kinds() == kinds


@pytest.mark.parametrize("kind", catalog.kinds())
def test_a_row_read_alone_is_what_the_whole_file_says(kind):
    text = (resources.files("parsim.catalog") / "data" / f"{kind}.yaml").read_text(encoding="utf-8")
    whole = YAML(typ="safe", pure=True).load(text)
    plain = {name: row for name, row in whole.items() if not {"like", "same_as"} & row.keys()}  # two keys of the catalog itself
    assert [(name, catalog.row(kind, name)) for name in catalog.names(kind) if name in plain] == [*plain.items()]
    assert {*catalog.names(kind), *catalog.aliases(kind)} == whole.keys() | catalog.newest(kind).keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &x {n: 1}\nb: {<<: *x}\n", {"n": 1}),
        ("a: {k: &x {n: 1}}\nc: &y {<<: *x, m: 2}\nb: {<<: *y}\n", {"n": 1, "m": 2}),  # over two rows
        ("a: &x {n: 1}\nc: &x {n: 2}\nb: {<<: *x}\nd: &x {n: 3}\n", {"n": 2}),  # the last before it
        ("a: &x {n: 1}\n# a comment: here\nb:\n  <<: *x\n\n  m: R*D &c\nc: {n: 4}\n", {"n": 1, "m": "R*D &c"}),
    ],
)
def test_a_row_finds_the_anchors_it_uses(text, expected, monkeypatch):
    monkeypatch.setattr(catalog, "_text", lambda kind: text)
    for cached in (catalog._texts, catalog._row):
        monkeypatch.setattr(catalog, cached.__name__, cached.__wrapped__)
    assert catalog.row("models", "b") == expected


@pytest.mark.parametrize("kind", catalog.kinds())
def test_every_row_is_read(kind):
    for name in catalog.names(kind):
        thing = read(kind, name)
        assert kind == "dtypes" or thing.name == name


@pytest.mark.parametrize("kind", catalog.kinds())
def test_every_figure_has_a_source(kind):
    for name in catalog.names(kind):
        row = catalog.row(kind, name)
        sources = row.pop("source")
        assert set(sources) == set(row) - REFERENCES, name
        assert all(isinstance(each, str) and len(each) > 5 for each in sources.values()), name


def numbers(value):
    if isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    elif isinstance(value, int | float):
        yield value


@pytest.mark.parametrize("kind", catalog.kinds())
def test_every_number_of_a_row_is_finite(kind):
    for name in catalog.names(kind):
        thing = read(kind, name)
        assert all(math.isfinite(each) for each in numbers(thing if kind == "dtypes" else asdict(thing))), name


# Korthikanti et al. 2022, table 3: layers, hidden size, heads, and the parameters it is named for; Brown et al. 2020, table 2.1.
@pytest.mark.parametrize(
    ("name", "num_layers", "hidden_size", "num_heads", "billions"),
    [
        ("megatron-22b", 48, 6144, 64, 22),
        ("megatron-175b", 96, 12288, 96, 175),
        ("megatron-530b", 105, 20480, 128, 530),
        ("megatron-1t", 128, 25600, 160, 1008),
        ("gpt3-6.7b", 32, 4096, 32, 6.7),
        ("gpt3-13b", 40, 5120, 40, 13),
        ("gpt3-175b", 96, 12288, 96, 175),
    ],
)
def test_a_model_has_the_parameters_it_is_named_for(name, num_layers, hidden_size, num_heads, billions):
    model = read("models", name)
    assert (model.num_layers, model.hidden_size, model.num_heads) == (num_layers, hidden_size, num_heads)
    # A layer has 4 h^2 of attention and 8 h^2 of MLP; biases and norms are below a percent.
    parameters = 12 * num_layers * hidden_size**2 + (model.vocab_size + model.max_positions) * hidden_size
    assert parameters / 10**9 == pytest.approx(billions, rel=0.02)  # names are rounded: 13B is 12.9, GPT-3 6.7B is 6.66


@pytest.mark.parametrize("name", [name for name in catalog.names("models") if "num_heads" in catalog.row("models", name)])
def test_heads_fill_the_hidden_size_and_a_plain_mlp_is_four_times_as_wide(name):
    model = read("models", name)
    # Heads and MLPs of hybrids are as wide as they like, and an image has one kind of heads; what a released config says is equal to it.
    if model.family in ("hybrid", "vit") or name in PUBLISHED:
        return
    free = model.qk_norm or model.kv_lora_rank or model.attention_sinks or model.positions == "relative"
    if not free:  # those of Qwen3, MLA, gpt-oss and T5 are as wide as they like
        assert model.num_heads * model.head_dim == model.hidden_size
    # A gated MLP is narrower, and those of the two largest T5 are wider.
    assert model.ffn_hidden_size == 4 * model.hidden_size or "glu" in model.activation or name in ("t5-3b", "t5-11b")
    assert model.num_heads % model.num_kv_heads == 0


def test_dtypes_have_the_bytes_of_their_bits():
    assert {name: read("dtypes", name) for name in ("fp32", "tf32", "bf16", "fp16", "fp8")} == {
        "fp32": 4,
        "tf32": 4,
        "bf16": 2,
        "fp16": 2,
        "fp8": 1,
    }


def test_prefixes_arrive_in_base_units():
    accelerator = read("accelerators", "a100-sxm4-80gb")
    assert accelerator.peak_flops_per_s["bf16"] == 312e12
    assert accelerator.hbm_bandwidth_bytes_per_s == 2039e9
    assert read("links", "ib-hdr").bandwidth_bytes_per_s == 25e9  # 200 Gb/s


def test_stacks_of_megatron_differ_in_what_2022_added():
    old, new = (read("stacks", f"megatron-{year}") for year in (2021, 2022))
    assert not old.tensor_overlap and new.tensor_overlap
    fitted = {"sustained_factor", "allocator_slack"}  # to steps and peaks of either, and no difference of what they run
    assert {key for key, value in asdict(new).items() if value != asdict(old)[key]} - fitted == {
        "name",
        "tensor_overlap",
        "fusions",
        "gradient_dtype",
        "limits",
        "source",
    }


def test_an_unknown_row_lists_the_known_and_the_nearest():
    with pytest.raises(ParsimError, match=r"unknown model 'gpt3-175' \(did you mean 'gpt3-175b'\?\)\n  Known: gpt3-6.7b, "):
        catalog.row("models", "gpt3-175")
    with pytest.raises(ParsimError, match=r"unknown kind of row 'model' \(did you mean 'models'\?\)"):
        catalog.names("model")


def test_a_row_that_is_changed_leaves_the_catalog_as_it_was():
    row = catalog.row("models", "gpt3-175b")
    row["source"]["num_layers"] = row["num_layers"] = "changed"
    assert catalog.row("models", "gpt3-175b")["num_layers"] == 96
    assert "changed" not in catalog.row("models", "gpt3-175b")["source"].values()
