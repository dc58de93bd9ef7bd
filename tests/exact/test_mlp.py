"""The exactness contract on a plain MLP, whose numbers are those of one written out in numpy.

GPT meets every pair of features (test_contract.py); an MLP with a pair is in the slow tier, but for four pairs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from mlp_by_hand import MLP, ROWS, executed_and_by_hand, predicted_flops_and_arithmetic
from parsim.errors import ScenarioError
from parsim.estimator.estimate import estimate
from parsim.model.families.mlp import MlpSpec
from parsim.model.spec import ModelSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.scenario import check, from_mapping, load
from parsim.verify import shrunk, verify_plan
from support import FEATURES, STACKS, enough, every_other, feature_sets, scenario, tiered

MODELS = {
    "relu": MLP,
    "tanh-dropped": replace(MLP, activation="tanh", dropout=0.25),
    "gelu-unbiased": replace(MLP, activation="gelu", bias=False),
    # Squares leave almost uniform shares, so with as many rows for each of 3 labels a bias would have no gradient but rounding.
    "squared-relu": replace(MLP, activation="squared_relu", num_labels=5),
}
TRANSFORMERS_ONLY = {"gqa", "untied"}
PLANS = [names for names in ((), *feature_sets(2)) if not TRANSFORMERS_ONLY & set(names)]
PAIRS = (("sp", "full"), ("tp", "pp"), ("dp", "selective"), ("tp", "zero3"))
CASES = [("relu", names) for names in PLANS] + [(model, names) for model in MODELS for names in PAIRS]
SLOW = {index for index, (_, names) in enumerate(CASES) if len(names) == 2 and names not in PAIRS}


def wrong(model: ModelSpec, names: tuple[str, ...], stack: Stack) -> list[object]:
    fields: dict[str, object] = {}
    for name in names:
        fields.update(FEATURES[name])
    if "vpp" in names:
        fields.update(FEATURES["vpp"])
    plan = Plan(**fields)  # type: ignore[arg-type]
    if "uneven" in names:
        layers = (2, 1, 1, 1) if plan.num_stages == 4 else (3, 1)
        model, plan = replace(model, num_layers=sum(layers)), replace(plan, layers_per_stage=layers)
    batch = enough(plan, 8 if "sp" in names else 1)
    return [check for check in verify_plan(scenario(model=model, stack=stack, batch=batch), plan, model.name) if not check.ok]


@pytest.mark.parametrize("index", [tiered(i, "-".join((model, *names)), slow=i in SLOW) for i, (model, names) in enumerate(CASES)])
def test_prediction_and_execution_of_an_mlp_agree_on_every_pair_of_features(index: int) -> None:
    model, names = CASES[index]
    assert not wrong(MODELS[model], names, STACKS[index % len(STACKS)])  # each stack meets a quarter of the cases


KINDS = dict(zip(("plain", "overlapped", "flash", "unfused"), STACKS, strict=True))


@pytest.mark.parametrize("case", every_other(MODELS, KINDS, "{}-{}".format))
def test_every_mlp_agrees_on_every_stack_with_sequence_parallelism(case: tuple[str, str]) -> None:
    assert not wrong(MODELS[case[0]], ("sp",), KINDS[case[1]])


@pytest.mark.parametrize("names", [(), ("dp",), ("tp",), ("zero3",)], ids="-".join)
def test_an_mlp_without_layers_agrees_too(names: tuple[str, ...]) -> None:
    assert not wrong(replace(MLP, num_layers=0), names, STACKS[1])


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_loss_and_gradients_of_an_mlp_are_those_of_one_written_in_numpy(num_layers: int) -> None:
    executed, (loss, gradients) = executed_and_by_hand(num_layers)
    assert executed.loss == pytest.approx(loss, rel=1e-12)
    assert executed.gradients[0].keys() == gradients.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(executed.gradients[0][name], gradient, rtol=0, atol=1e-15)  # sums in another order


def test_tensor_parallelism_of_an_mlp_reduces_once_a_layer_each_way() -> None:
    toy = scenario(model=MLP, batch=ROWS)
    sent = estimate(toy, Plan(tensor_parallel=2, micro_batch=12)).sent_bytes[0]["tp"]
    stream = 12 * 12 * 2  # rows x hidden_size x bf16
    norm = 4  # of the gradients: a float32
    assert sent == 4 * 2 * stream + norm  # 4 layers; of 2 ranks a ring all-reduce sends the payload once


def test_flops_of_an_mlp_are_its_matmuls_its_biases_and_what_stands_between() -> None:
    predicted, counted = predicted_flops_and_arithmetic()
    assert predicted == counted


def test_a_large_mlp_is_shrunk_to_one_that_can_be_executed() -> None:
    large = replace(MLP, hidden_size=8192, ffn_hidden_size=8192, num_features=784)
    small = shrunk(scenario(model=large, batch=Batch(4096, 1)), Plan(tensor_parallel=2))
    assert small.was_shrunk and small.scenario.model.family == "mlp"
    assert all(check.ok for check in verify_plan(small.scenario, small.plan, "small"))


INLINE = {"family": "mlp", "num_layers": 2, "num_features": 64, "hidden_size": 128, "num_labels": 10}
REST = {"cluster": {"node": "dgx-a100-80gb"}, "batch": {"global_batch": 1024, "sequence_length": 1}, "plans": {"a": {"micro_batch": 128}}}


def test_a_scenario_may_state_an_mlp_inline_or_by_name() -> None:
    model = from_mapping({"model": INLINE, **REST}).model
    expected = MlpSpec(name="inline", num_layers=2, num_features=64, hidden_size=128, ffn_hidden_size=128, num_labels=10)
    assert model == expected
    named = from_mapping({"model": {"base": "digits-mlp", "num_layers": 3}, **REST})
    assert (named.model.family, named.model.num_layers, named.model.num_features) == ("mlp", 3, 64)
    priced = estimate(named, "a")
    assert 0 < priced.mfu <= priced.hfu < 1  # one of which no attention is a part
    assert priced.mfu == priced.mfu_causal


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {**INLINE, "num_heads": 4},
            "model.num_heads: a model of family mlp has no num_heads, one of family transformer has; leave it out",
        ),
        (
            {"base": "tiny-gpt", "num_features": 4},
            "model.num_features: a model of family transformer has no num_features, one of family dense",
        ),
        (
            {**INLINE, "activation": "swiglu"},
            "model.activation: cannot be 'swiglu'; legal: relu, gelu, squared_relu",
        ),
        ({**INLINE, "num_layers": -1}, "model.num_layers: must be at least 0, not -1"),
        ({**INLINE, "num_classes": 3}, "model.num_classes: unknown key (did you mean 'num_labels'?)"),
        ({"base": "digits-mlp", "hidden_size": 1.5}, "model.hidden_size: must be a whole number, not 1.5"),
    ],
)
def test_a_field_that_is_wrong_for_its_family_is_told_in_a_sentence(model: dict[str, object], message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        from_mapping({"model": model, **REST})
    assert message in str(caught.value)


def test_an_unknown_family_is_one_sentence() -> None:
    for family, shown in (("mpl", "'mpl' (did you mean 'mlp'?)"), (3, "'3'"), (["mlp"], "'a list'")):
        with pytest.raises(ScenarioError) as caught:
            from_mapping({"model": {**INLINE, "family": family}, **REST})
        assert (
            f"model.family: unknown family {shown}; known: dense, encoder_decoder, hybrid, mlp, transformer, vision_language, vit"
            in str(caught.value)
        )
        assert "num_features" not in str(caught.value)


def test_tensor_parallelism_of_an_mlp_is_held_against_its_inner_units_only(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    text = "model: {{base: digits-mlp, ffn_hidden_size: {}}}\ncluster: {{node: dgx-a100-80gb}}\n"
    text += "batch: {{global_batch: 8, sequence_length: 1}}\nplans: {{a: {{tensor_parallel: 8}}}}\n"
    path.write_text(text.format(72))
    assert load(path).plan("a").tensor_parallel == 8
    path.write_text(text.format(68))
    (fault,) = check(path)
    assert 'tensor_parallel = 8 does not divide ffn_hidden_size = 68 of model "digits-mlp (changed)"' in fault.message
