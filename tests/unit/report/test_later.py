"""A module that is imported later: not before it is used, and then as if it always had been."""

import subprocess
import sys
from pathlib import Path

SCENARIO = Path(__file__).parents[3] / "scenarios" / "tiny.yaml"
LATER = "import sys; from parsim.report.later import later; later({'numpy': None, 'no_such_module': None, 'json.tool': hook})"
HOOK = "def hook(module): module.main = 'another'"


def _says(*lines: str) -> str:
    """What these lines print, in an interpreter of their own."""
    code = "\n".join((HOOK, LATER, *lines))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_check_of_a_scenario_does_not_load_numpy() -> None:
    told = f"from parsim.scenario import check; print(check({str(SCENARIO)!r}), 'numpy._core' in sys.modules)"
    assert _says(told) == "[] False"


def test_numpy_is_there_when_it_is_first_used() -> None:
    assert _says("import numpy as np; print('numpy._core' in sys.modules, np.arange(3).sum(), type(np).__name__)") == "False 3 module"


def test_a_part_of_it_is_found_by_its_name() -> None:
    assert _says("from numpy.linalg import norm; print(norm([3, 4]))") == "5.0"


def test_what_is_no_module_is_left_to_the_import_that_fails() -> None:
    assert _says("try: import no_such_module\nexcept ModuleNotFoundError as error: print(error)") == "No module named 'no_such_module'"


def test_it_says_what_file_it_is_of_as_scipy_asks() -> None:
    assert _says("import numpy as np; print(np.ndim(0), np.__file__ == np.__spec__.origin, np.__package__)") == "0 True numpy"


def test_a_part_of_a_package_waits_too_and_is_changed_as_it_arrives() -> None:
    told = "import json.tool; print('argparse' in sys.modules, json.tool.main, 'argparse' in sys.modules)"
    assert _says(told) == "False another True"
