"""Loads of experts that a scenario gives, or names a file for: what is read, and what is refused with a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from parsim.errors import ParsimError
from parsim.scenario import load, loads

TEXT = """
model: {base: tiny-llama, name: some, num_layers: 2, num_experts: 4, experts_per_token: 2, source: made up, load_shares: SHARES}
cluster: {node: {base: dgx-a100-80gb, devices_per_node: 4}}
batch: {global_batch: 8, sequence_length: 8, dtype: bf16}
plans: {a: {expert_parallel: 4}}
"""
CSV = "layer,expert,tokens\n0,0,10\n0,2,1\n0,1,5\n0,3,0\n1,1,7\n1,0,2\n1,2,0\n1,3,3\n"


def shares(folder: Path, stated: str, **files: str) -> tuple[object, ...]:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    (folder / "mine.yaml").write_text(TEXT.replace("SHARES", stated))
    return load(folder / "mine.yaml").model.load_shares  # type: ignore[attr-defined, no-any-return]


def test_layers_of_a_file_have_their_own_loads_and_what_tells_none_apart_is_of_all(tmp_path: Path) -> None:
    rows = ((10, 5, 1, 0), (2, 7, 0, 3))
    assert shares(tmp_path, "file:loads.csv", loads_csv=CSV) == rows
    assert shares(tmp_path, "file:loads.json", loads_json=json.dumps(rows)) == rows
    assert shares(tmp_path, "[[10, 5, 1, 0], [2, 7, 0, 3]]") == rows
    assert shares(tmp_path, "file:loads.csv", loads_csv="expert,tokens\n1,2\n0,3\n3,1\n2,0\n3,1.5\n") == (3, 2, 0, 2.5)
    assert shares(tmp_path, "file:loads.json", loads_json="[3, 2, 0, 2.5]") == (3, 2, 0, 2.5)
    assert shares(tmp_path, "[0.5, 0.25, 0.25, 0]") == (0.5, 0.25, 0.25, 0)


def test_layers_of_a_file_are_those_of_the_model_that_have_experts_by_number(tmp_path: Path) -> None:
    of_the_second = "layer,expert,tokens\n1,0,4\n1,1,3\n1,2,2\n1,3,1\n"
    assert shares(tmp_path, "file:loads.csv, num_dense_layers: 1", loads_csv=of_the_second) == ((4, 3, 2, 1),)


@pytest.mark.parametrize(("name", "broken"), [("_tokens", lambda *_: 1.0), ("_in_order", lambda found, *_: [*found.values()])])
def test_mutant_a_reader_of_other_tokens_or_another_order_is_caught(
    name: str, broken: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loads, name, broken)
    with pytest.raises(AssertionError):
        test_layers_of_a_file_have_their_own_loads_and_what_tells_none_apart_is_of_all(tmp_path)


def test_loads_of_a_model_without_experts_are_told_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TEXT.replace("num_experts: 4, experts_per_token: 2, ", "").replace("SHARES", "[[0.5], [0.5]]"))
    with pytest.raises(ParsimError, match=r"load_shares = \[\[0.5\], \[0.5\]\] goes with experts, but num_experts = 0"):
        load(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text(TEXT.replace("num_experts: 4, experts_per_token: 2, ", "").replace("SHARES", "file:x.csv"))
    with pytest.raises(ParsimError, match=r"x.csv says how tokens choose experts, but the model has none; leave it out"):
        load(tmp_path / "mine.yaml")


def test_no_row_behind_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "_MOST_ROWS", 3)
    with pytest.raises(ParsimError, match=r"loads.csv: has more than the 3 rows that are read; give fewer"):
        shares(tmp_path, "file:loads.csv", loads_csv=CSV.replace("1,1,7", "1,no number,7"))


@pytest.mark.parametrize(
    ("stated", "text", "said"),
    [
        ("[1, 2, 3]", "", "load_shares has 3 numbers, but num_experts = 4; give each expert one"),
        ("[1, 0, 0, 0]", "", "load_shares leaves tokens 1 experts, but experts_per_token = 2"),
        ("[1, .inf, 0, 0]", "", "must be a finite number, not inf"),
        ("[1, 1, 1, 1], load_skew: 0.5", "", "load_skew = 0.5 and load_shares both say how tokens choose experts"),
        ("[1, 1, 1, 1], load_seed: 3", "", "load_seed = 3 draws which experts load_skew favours, which is 0"),
        ("[[1, 2, 3, 4]]", "", "load_shares has 1 list, but 2 layers have experts; give each one, or one list of numbers for all"),
        ("[[1, 2, 3, 4], 5]", "", "load_shares has numbers beside lists"),
        ("[[1, 2, 3, 4], [1, 2, 3]]", "", "load_shares[1] has 3 numbers, but num_experts = 4; give each expert one"),
        ("[[1, 2, 3, 4], [1, 0, 0, 0]]", "", "load_shares[1] leaves tokens 1 experts, but experts_per_token = 2"),
        ("[[1, 2, 3, 4], [1, -2, 3, 4]]", "", "must be at least 0, not -2"),
        ("[[1, 2, 3, 4], [1, two, 3, 4]]", "", "must be a number, not 'two'"),
        ("[[1, 2, 3, 4], [[1], 2, 3, 4]]", "", "must be a number, not a list"),
        (
            "file:x.csv",
            CSV.replace("1,1,7", "5,1,7"),
            "x.csv: line 6: layer 5 has no experts; those of the model, numbered",
        ),
        ("file:x.csv", CSV.replace("1,1,7", "one,1,7"), "line 6: layer must be a number from 0, not 'one'"),
        ("file:x.csv", CSV[: CSV.index("1,1,7")], "no row is of layer 1, which has experts"),
        ("file:x.csv", "expert,tokens\n", "no expert has a row"),
        ("file:x.json", "[[1, 2, 3, 4]]", "it has 1 list, but 2 layers have experts (0, 1); give each of these one"),
        ("file:x.json", "[[1, 2], [3, 4]]", "load_shares[0] has 2 numbers, but num_experts = 4"),
        ("file:none.csv", "", "there is no file none.csv: name a CSV or JSON file as file:NAME, a path from the folder"),
        ("file:", "", "file: names no file: name a CSV or JSON file as file:NAME"),
        ("x.csv", "", "'x.csv' names no file"),
        ("file:.", "", "is a folder: name a CSV or JSON file"),
        ("file:x.csv", CSV.replace("tokens", "count"), "has the columns layer, expert, tokens, and here is no tokens"),
        ("file:x.csv", CSV.replace("1,0,2", "1,0,two"), "line 7: tokens must be a number from 0, not 'two'"),
        ("file:x.csv", CSV.replace("0,2,1\n", "").replace("1,2,0\n", ""), "expert 2 has no row"),
        ("file:x.csv", CSV.replace("1,3,3", "1,-3,3"), "line 9: expert must be a number from 0, not '-3'"),
        ("file:x.csv", "", "x.csv: is empty; a CSV file begins with the names of its columns"),
        ("file:x.json", "[[1, 2], [3]]", "a list of layers, each a list of as many tokens by expert"),
        ("file:x.json", "[[1, -2], [3, 4]]", "expert 1: tokens must be a number from 0, not -2"),
        ("file:x.json", "{", "x.json: is no CSV or JSON file"),
        ("file:x.json", f"[{'1,' * 1_000_000}1]", "x.json: has 1,000,001 loads; give 1,000,000 at most"),
        ("file:x.csv", "expert,tokens\n999999999,1\n", "expert 0 has no row"),
        ("file:x.csv", "x" * 140_000, "x.csv: is no CSV or JSON file in UTF-8: field larger than field limit"),
        ("file:/dev/zero", "", "zero: is larger than the 40,000,000 bytes that are read"),
    ],
)
def test_what_is_no_load_is_refused(stated: str, text: str, said: str, tmp_path: Path) -> None:
    suffix = "json" if "json" in stated else "csv"
    with pytest.raises(ParsimError, match=r"model") as error:
        shares(tmp_path, stated, **{f"x_{suffix}": text})
    assert said in str(error.value)
