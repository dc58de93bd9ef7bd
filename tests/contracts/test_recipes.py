"""Every row of precision and of optimizers names roles, dtypes and kernels that there are; one that does not is refused as it is made."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim import catalog
from parsim.errors import ParsimError, ScenarioError
from parsim.estimator.estimate import estimate
from parsim.model.dims import COMPUTE, MATMUL
from parsim.parallel.optimizer import OPTIMIZERS, Optimizer
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.precision import RECIPES, Recipe
from parsim_kernels import KERNELS
from support import scenario


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_dtypes_of_the_catalog_and_its_source(name: str) -> None:
    recipe, known = RECIPES[name], catalog.names("dtypes")
    assert {*recipe.stores.values(), *recipe.multiplies.values()} <= set(known)
    assert recipe.source


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_runs_a_kernel_of_the_core_on_states_that_have_bytes(name: str) -> None:
    row = OPTIMIZERS[name]
    assert row.kernel in KERNELS and row.source
    assert all(type(itemsize) is int and itemsize > 0 for _, itemsize in row.state_sizes(4))


@pytest.mark.parametrize(
    ("stores", "multiplies", "said"),
    [
        ({COMPUTE: "bf16", "mastr": "fp32"}, {MATMUL: "bf16"}, r"unknown role 'mastr' in a precision recipe \(did you mean 'master'\?\)"),
        ({COMPUTE: "bf16"}, {MATMUL: "bf16", "attention": "fp32"}, "unknown role 'attention' in a precision recipe"),
        ({"master": "fp32"}, {MATMUL: "bf16"}, "a precision recipe lacks role 'compute'"),
        ({COMPUTE: "bf16"}, {}, "a precision recipe lacks role 'matmul'"),
    ],
)
def test_a_recipe_of_other_roles_is_refused(stores: dict[str, str], multiplies: dict[str, str], said: str) -> None:
    with pytest.raises(ParsimError, match=said):
        Recipe(stores, multiplies, "made up")


def test_a_recipe_that_stores_in_no_dtype_is_refused_where_bytes_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "mine", replace(RECIPES["bf16"], stores={COMPUTE: "bf61"}))
    with pytest.raises(ScenarioError, match="'bf61', in which 'mine' stores tensors, is no dtype\n  Known: bf16, "):
        estimate(scenario(batch=Batch(8, 8, "mine")), Plan())


def test_an_optimizer_without_a_kernel_is_refused() -> None:
    with pytest.raises(ParsimError, match="unknown kernel 'adan' of an optimizer\n  It is one of the numerical core, as 'adam'"):
        Optimizer("adan", (), "made up")
