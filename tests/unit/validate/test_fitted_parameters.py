"""Whoever reads the errors is told what was fitted, on what, and on which rows errors are no evidence."""

from __future__ import annotations

import re
from pathlib import Path

from parsim import catalog
from parsim.validate.parameters import parameters

FIT = ("parsim fit", "one number of parsim")
PACKAGE = Path(catalog.__file__).parents[1]
COMMENTED = re.compile(r"((?:^#.*\n)+)^([A-Z][A-Z_, ]*(?:: Final)?) = ", re.MULTILINE)


def test_every_figure_whose_source_is_a_fit_is_listed_or_is_that_of_a_row_that_is() -> None:
    listed = {(name, key) for name, key in _listed()}
    known = {(kind, key, catalog.row(kind, row)["source"][key]) for (kind, row), key in listed}
    for kind in catalog.kinds():
        for row in catalog.names(kind):
            sources = catalog.row(kind, row).get("source")
            for key, source in sources.items() if isinstance(sources, dict) else ():
                assert not str(source).startswith(FIT) or (kind, key, source) in known, f"{kind}/{row}: {key}"


def _listed() -> list[tuple[tuple[str, str], str]]:
    places = []
    for each in (each for each in parameters() if not each.is_code):
        kind, row = each.name.partition(":")[0].split("/")
        places += [((kind, row), key.partition(".")[0]) for key in each.value]
    return places


def test_every_constant_of_the_code_whose_comment_calls_it_a_fit_is_listed() -> None:
    listed = {(each.name.partition(":")[0].partition("/")[2], key) for each in parameters() if each.is_code for key in each.value}
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("parsim", *path.relative_to(PACKAGE).with_suffix("").parts))
        for comment, names in COMMENTED.findall(path.read_text(encoding="utf-8")):
            if "parsim fit" in comment.replace("\n#", ""):
                found |= {(module, name.strip()) for name in names.partition(":")[0].split(",")}
    assert len(found) > 4 and found <= listed
    assert all(each.evidence for each in parameters())


def test_no_figure_is_listed_twice() -> None:
    figures = [(each.name.partition(":")[0], key) for each in parameters() for key in each.value]
    assert len(figures) == len(set(figures))


def test_what_was_fitted_to_rows_that_are_scored_is_named_so() -> None:
    scored = {each.name for each in parameters() if each.scored}
    assert {"stacks/vtrain-deepspeed: host_launch", "stacks/simumax: sustained_factor.b200"} <= scored
    assert not any(each.scored for each in parameters() if each.of in ("kernels", "collectives"))


def test_a_sustained_factor_of_a_stack_rests_on_rows() -> None:
    for row in catalog.names("stacks"):
        for key, factor in catalog.row("stacks", row)["sustained_factor"].items():
            found = [each for each in parameters() if each.value.get(f"sustained_factor.{key}") == factor]
            assert found and all(each.num_rows for each in found), f"{row}: {key}"


def test_figures_of_a_law_are_counted() -> None:
    gemm = next(each for each in parameters() if each.name == "accelerators/h100-sxm5-80gb: gemm")
    assert gemm.num_figures == 6  # efficiency, memory_efficiency, launch, exponent, tile_edge, tile_start
