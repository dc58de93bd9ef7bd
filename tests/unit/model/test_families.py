"""A family says what its models are; what a scenario may state, and how the blocks follow one another, is derived from that."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from msgspec.structs import replace

from parsim import catalog
from parsim.errors import ParsimError
from parsim.model.families import FAMILIES, Family, blocks_of, family, mlp, names
from parsim.model.parameters import num_parameters
from parsim.model.spec import ModelSpec, figure, layers_in
from parsim.scenario.models import row_class
from parsim.scenario.rows import read

OF_THE_ROW = {"name", "source"}  # which every row of the catalog has
OF_THE_SCENARIO = {"tuning"}  # a section of its own, not of the model's row


@pytest.mark.parametrize("name", catalog.names("models"))
def test_a_layout_names_all_blocks_in_order_and_its_ends_take_and_leave_no_stream(name: str) -> None:
    model: ModelSpec = read("models", name)
    blocks = blocks_of(model.architecture)
    assert list(dict(model.layout)) == list(blocks) == [block.name for block in blocks.values()]
    first, *between, last = blocks.values()
    assert not first.input and first.output and last.input and not last.output
    assert all(block.input and block.output for block in between)
    copies = [copies for _, copies in model.layout]
    assert copies[0] == copies[-1] == 1 and sum(copies for _, copies in layers_in(model.layout)) == model.num_layers


@pytest.mark.parametrize("name", names())
def test_a_scenario_may_state_every_field_of_a_spec(name: str) -> None:
    spec = family(name).spec
    assert set(spec.figures()) == {*spec.__struct_fields__} - OF_THE_ROW - OF_THE_SCENARIO
    assert set(row_class(name).model_fields) == {*spec.figures(), *OF_THE_ROW, "base", "family"}


def test_an_mlp_carries_nothing_of_attention_and_vocabularies() -> None:
    own = {*mlp.MlpSpec.__struct_fields__} - {*ModelSpec.__struct_fields__}
    assert own == {"num_features", "num_labels", "activation", "bias"}
    assert not set(read("models", "digits-mlp").extents) & set("KRCVUPH")


@pytest.mark.parametrize("name", catalog.names("models"))
@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_a_small_likeness_has_the_same_architecture_and_can_be_cut(name: str, tensor_parallel: int) -> None:
    model: ModelSpec = read("models", name)
    small = model.small(4, tensor_parallel)
    assert small.architecture == model.architecture and small.num_layers == 4
    assert [small.extents.get(dim, 0) % tensor_parallel for dim in "KF"] == [0, 0]
    assert num_parameters(small) < 15_000 * tensor_parallel


def test_figures_that_do_not_fit_are_refused_in_a_sentence() -> None:
    row = {"num_layers": 1, "hidden_size": 10, "num_heads": 4, "vocab_size": 8, "max_positions": 8, "bias": True}
    left_out = dict.fromkeys(("head_dim", "ffn_hidden_size", "num_kv_heads", "qkv_bias"))
    with pytest.raises(ParsimError, match="num_heads = 4 does not divide hidden_size = 10"):
        family("transformer").spec.of(name="odd", **row, **left_out)
    model = family("transformer").spec.of(name="even", **{**row, "hidden_size": 8}, **left_out)
    assert (model.ffn_hidden_size, model.extents["K"], model.extents["C"]) == (32, 4, 2)


class _Architecture(mlp.MlpArchitecture, frozen=True, kw_only=True):
    family: ClassVar[str] = "made up"


class _Spec(mlp.MlpSpec, frozen=True):
    """An MLP whose rows have a colour."""

    num_colours: int = figure("the colours that a row may have", 3, aliases=("palette",))

    @property
    def architecture(self) -> _Architecture:
        return _Architecture(activation=self.activation, bias=self.bias, dropout=self.dropout > 0)


def test_a_family_of_ones_own_is_its_spec_and_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FAMILIES, "_values", {**FAMILIES._values, "made up": Family(_Spec, mlp.blocks)})
    row: dict[str, Any] = {"family": "made up", "num_layers": 1, "num_features": 2, "hidden_size": 3, "num_labels": 4, "num_colours": 5}
    model = row_class("made up").model_validate(row).build("rainbow")
    assert (
        model == replace(_Spec(name="rainbow", num_layers=1, hidden_size=3, ffn_hidden_size=3, num_features=2, num_labels=4), num_colours=5)
        and model.family == "made up"
    )
    assert num_parameters(model) == (2 * 3 + 3) + 2 * (3 * 3 + 3) + (3 * 4 + 4)
    with pytest.raises(ValueError, match=r"unknown key \(did you mean 'num_colours'\?\)"):
        row_class("made up").model_validate({**row, "palette": 5})
    with pytest.raises(ValueError, match="a model of family made up has no num_heads, one of family transformer has"):
        row_class("made up").model_validate({**row, "num_heads": 5})
