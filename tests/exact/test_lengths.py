"""Documents that are packed see themselves alone, padding is trained on by nobody, and both are counted as they are executed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import parsim
from parsim.cost import sizes
from parsim.errors import ParsimError, ScenarioError
from parsim.estimator.estimate import estimate
from parsim.executor import values
from parsim.model.parameters import model_flops_per_token
from parsim.model.tuning import BASE, Tuning
from parsim.parallel.plan import Batch, Plan
from parsim.scenario import lengths as lengths_of_files
from parsim.scenario.rows import read
from parsim.verify.contract import verify_plan
from support import GPT, MOE, STACKS, forget_steps, scenario, tiered

LENGTHS = (5, 3, 9, 2, 7, 1, 4, 6)  # rows of 16: 5 3 2 1 4, 9 7 and 6
FLASH = STACKS[2]
UNEVEN = Batch(4, 16, packing="packed", lengths=LENGTHS)
PADDED = replace(UNEVEN, packing="padded")
LONG = replace(GPT, num_layers=2, max_positions=16)
EXPERTS = replace(MOE, max_positions=16)
ADAPTED = replace(LONG, tuning=Tuning((BASE,), 4, 8.0, 0.1, ("linear_qkv",)))
CASES = [
    tiered((model, stack, replace(batch, global_batch=batch.global_batch * (2 if plan.num_devices > 2 else 1)), plan), name, slow=slow)
    for name, slow, model, stack, batch, plan in (
        ("packed", False, LONG, FLASH, UNEVEN, Plan(data_parallel=2, micro_batch=2)),
        ("padded", False, LONG, STACKS[1], PADDED, Plan(data_parallel=2, tensor_parallel=2, sequence_parallel=True)),
        ("packed, ring", False, LONG, FLASH, UNEVEN, Plan(context_parallel=2, context_kind="ring")),
        ("packed, a window", True, replace(LONG, sliding_window=3, full_attention_every=2), FLASH, UNEVEN, Plan(recompute="full")),
        ("packed, chunks, ring", True, replace(LONG, attention_chunk=4), FLASH, UNEVEN, Plan(context_parallel=2, context_kind="ring")),
        ("packed, no kernel for it", True, LONG, STACKS[0], UNEVEN, Plan(tensor_parallel=2)),
        ("packed, capped scores", True, replace(LONG, attn_logit_softcapping=2.0, final_logit_softcapping=3.0), FLASH, UNEVEN, Plan()),
        ("packed, adapters", True, ADAPTED, FLASH, UNEVEN, Plan(tensor_parallel=2, zero_stage=2, data_parallel=2)),
        ("packed, experts", True, EXPERTS, FLASH, UNEVEN, Plan(data_parallel=2, expert_parallel=2, zero_stage=3)),
        ("packed, loss in chunks", True, LONG, replace(FLASH, loss_chunks=2), UNEVEN, Plan(pipeline_parallel=2)),
        ("padded, loss in place", True, LONG, replace(FLASH, fusions=("loss_in_place",)), PADDED, Plan(data_parallel=2, zero_stage=3)),
        ("padded, loss in chunks", True, LONG, replace(FLASH, loss_chunks=4), PADDED, Plan(micro_batch=2, recompute="selective")),
        ("padded, zero bubble", True, LONG, STACKS[3], PADDED, Plan(pipeline_parallel=2, schedule="zero_bubble_h1")),
        *(
            (f"{batch.packing}, {kind}", True, LONG, FLASH, batch, Plan(context_parallel=4, context_kind=kind, context_group=group))
            for batch in (UNEVEN, PADDED)
            for kind, group in (("ring", None), ("all_gather", None), ("contiguous", None), ("ulysses", None), ("ulysses_ring", 2))
        ),
    )
]


def failed(toy: parsim.Scenario, plan: Plan) -> list[str]:
    return [check.quantity for check in verify_plan(toy, toy.legal_plan(plan), "toy") if not check.ok]


@pytest.mark.parametrize("case", CASES)
def test_sequences_of_several_lengths_keep_the_contract(case: tuple[Any, Any, Batch, Plan]) -> None:
    model, stack, batch, plan = case
    assert not failed(scenario(model=model, stack=stack, batch=batch), plan)


def test_attention_costs_the_pairs_of_each_document_and_of_the_padding_behind_them() -> None:
    assert UNEVEN.documents == (5, 3, 2, 1, 4, 1)  # of three rows the one nearest their mean of 41 pairs
    left_out = 16 * 17 // 2 - (15 + 6 + 3 + 1 + 10 + 1)
    whole, packed = (estimate(scenario(model=LONG, stack=FLASH, batch=batch), Plan()).flops[0] for batch in (Batch(4, 16), UNEVEN))
    forward_and_backward = (4 + 10) * GPT.head_dim * GPT.num_heads  # FLOPs a pair: 2 and 5 matmuls
    assert whole - packed == 2 * 4 * left_out * forward_and_backward  # of 2 layers and 4 rows


def test_rates_are_of_real_tokens_and_padding_costs_as_much_as_they() -> None:
    full, padded = (estimate(scenario(model=LONG, stack=FLASH, batch=each), Plan()) for each in (Batch(4, 16), PADDED))
    real = 2 + 4 + 6 + 9  # the middles of the four quarters of 1 2 3 4 5 6 7 9
    assert PADDED.num_tokens == real and padded.flops == full.flops
    assert padded.tokens_per_s * padded.step_s == pytest.approx(real, rel=1e-12)
    of_weights = model_flops_per_token(LONG, 16)[0] - 2 * 12 * 16 * 16  # 12 L S w a token
    counted = of_weights * real + 2 * 12 * 16 * (4 + 16 + 36 + 81)
    peak = padded.step_s * 1e9
    assert padded.mfu * peak == pytest.approx(counted, rel=1e-12)
    assert padded.hfu * padded.step_s == pytest.approx(full.mfu * full.step_s, rel=1e-12)


def test_a_step_of_packed_documents_is_shorter_than_one_of_whole_rows() -> None:
    model, cluster = read("models", "llama3-8b"), replace(scenario().cluster)
    whole, packed = (
        estimate(scenario(model=model, stack=FLASH, cluster=cluster, batch=batch), Plan()).step_s
        for batch in (Batch(1, 8192), Batch(1, 8192, packing="packed", lengths=(1024,)))
    )
    assert packed < whole


def _document_of(tmp_path: Path, lengths: object, packing: str = "packed") -> parsim.Scenario:
    batch = {"global_batch": 2, "sequence_length": 16, "packing": packing, "lengths": lengths}
    path = tmp_path / "packed.yaml"
    path.write_text(json.dumps({"model": "tiny-gpt", "cluster": {"node": "dgx-a100-80gb"}, "batch": batch}))
    return parsim.load(path)


def test_lengths_stand_in_a_list_in_a_file_or_follow_a_distribution(tmp_path: Path) -> None:
    (tmp_path / "lengths.csv").write_text("source,tokens\na,5\nb,3\n")
    (tmp_path / "lengths.json").write_text("[5, 3]")
    for lengths in ([5, 3], "file:lengths.csv", "file:lengths.json"):
        assert _document_of(tmp_path, lengths).batch.lengths == (5, 3)
    drawn = _document_of(tmp_path, {"distribution": "uniform", "least": 4, "most": 6, "num_sequences": 300}).batch.lengths
    assert len(drawn) == 300 and {*drawn} == {4, 5, 6}
    found = sorted(_document_of(tmp_path, {"distribution": "lognormal", "median": 500, "sigma": 1, "num_sequences": 9999}).batch.lengths)
    assert found[9999 // 2] == pytest.approx(500, rel=0.05)
    assert found[int(9999 * 0.8413)] == pytest.approx(500 * 2.718, rel=0.1)  # one deviation up


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ("file:missing.csv", "there is no file missing.csv: name a CSV or JSON file as file:NAME, a path from the folder"),
        ("file: ", "file: names no file"),
        ({"file": None}, "file: names no file: name a CSV or JSON file as file:NAME"),
        ("file:/dev/zero", "zero: is larger than the 10,000,000 bytes that are read"),
        ("file:wide.csv", "wide.csv: is no CSV or JSON file in UTF-8: field larger than field limit"),
        ("file:none.json", "none.json: has no lengths; give 1 to 100,000, in CSV a row each, in JSON a list"),
        ("lengths.csv", "'lengths.csv' names no file: name a CSV or JSON file as file:NAME"),
        ("file:.", "is a folder: name a CSV or JSON file"),
        ("file:bad.csv", r"bad.csv: a CSV file of lengths has a column tokens, and here is none \(it has length\)"),
        ("file:text.csv", "text.csv: line 3: a length must be a whole number of tokens, 1 at least, not 'five'"),
        ("file:text.json", "text.json: entry 1: a length must be a whole number"),
        ("file:empty.csv", "empty.csv: is empty"),
        ("file:bad.json", "must be a whole number of tokens, 1 at least, not 0"),
        ([], "must not be empty"),
        ([4, 0], "must be above 0, not 0"),
        ({"distribution": "uniform", "least": 4}, "distribution = uniform has least and most; give most"),
        ({"distribution": "exponential", "mean": 4, "sigma": 1}, "leave out sigma"),
        ({"distribution": "pareto"}, "cannot be 'pareto'"),
        (None, "goes with lengths: a list, file:NAME, or a distribution"),
    ],
)
def test_what_are_no_lengths_is_refused(lengths: object, said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("length\n5\n")
    (tmp_path / "bad.json").write_text("[5, 0]")
    (tmp_path / "text.csv").write_text("tokens\n5\nfive\n")
    (tmp_path / "text.json").write_text('[5, "five"]')
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "none.json").write_text("[]")
    (tmp_path / "wide.csv").write_text("x" * 140_000)
    with pytest.raises(ScenarioError, match=said):
        _document_of(tmp_path, lengths)


def test_no_length_behind_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths_of_files, "MOST_SEQUENCES", 3)
    (tmp_path / "many.csv").write_text("tokens\n5\n5\n5\n5\n" + "x" * 140_000)
    (tmp_path / "many.json").write_text("[5, 5, 5, 5]")
    with pytest.raises(ScenarioError, match=r"many.csv: has more than the 3 rows that are read; give fewer"):
        _document_of(tmp_path, "file:many.csv")
    with pytest.raises(ScenarioError, match=r"many.json: has 4 lengths; give 3 at most"):
        _document_of(tmp_path, "file:many.json")


@pytest.mark.parametrize(
    ("model", "batch", "said"),
    [
        ("tiny-gpt", {"lengths": [4]}, "goes with packing: packed or padded"),
        ("bert-base", {"lengths": [4], "packing": "packed"}, "is built for models that predict the next token"),
        ("transformer-base", {"lengths": [4], "packing": "padded"}, "is built for models that predict the next token"),
        ("deepseek-v3", {"lengths": [4], "packing": "packed"}, "is not built beside mtp_layers"),
        ("tiny-gpt", {"packed": True}, "did you mean 'packing'"),
        ("tiny-gpt", {"source_length": 0}, "must be above 0, not 0"),
    ],
)
def test_models_that_do_not_train_on_several_lengths_are_told(model: str, batch: dict[str, object], said: str) -> None:
    of_batch = {"global_batch": 2, "sequence_length": 16, **batch}
    row = {"base": "deepseek-v3", "mtp_layers": 1} if model == "deepseek-v3" else model
    with pytest.raises(ParsimError, match=said):
        parsim.from_mapping({"model": row, "cluster": {"node": "dgx-a100-80gb"}, "batch": of_batch})


def _pairs_of_whole_rows(patch: pytest.MonkeyPatch) -> None:
    right = sizes.causal_pairs
    patch.setattr(sizes, "causal_pairs", lambda queries, keys, window: right(queries, keys, window._replace(documents=())))


def _padding_has_labels(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(values, "IGNORED", 0)


def _tokens_of_padding_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Batch, "num_tokens", property(lambda self: self.global_batch * self.sequence_length))


@pytest.mark.parametrize(
    ("mutate", "batch", "quantity"),
    [
        (_pairs_of_whole_rows, UNEVEN, "FLOPs"),
        (_padding_has_labels, PADDED, "loss, by hand"),
        (_tokens_of_padding_count, PADDED, "loss, by hand"),
    ],
)
def test_verify_notices(mutate: Callable[[pytest.MonkeyPatch], None], batch: Batch, quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_steps()
    mutate(monkeypatch)
    assert quantity in failed(scenario(model=replace(LONG, num_layers=1), stack=FLASH, batch=batch), Plan())
