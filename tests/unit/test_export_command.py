"""`parsim export -o DIR` writes over nothing that somebody has changed."""

from __future__ import annotations

from pathlib import Path

from test_cli import call, here

__all__ = ["here"]
DIGITS = str(Path(__file__).parents[2] / "scenarios/digits-mlp.yaml")
ASKED = ("export", DIGITS, "data_parallel", "--to", "tensorflow", "-o", "out")


def test_an_export_is_written_again_over_itself_and_over_nothing_else(here: Path) -> None:
    assert call(*ASKED).exit_code == 0
    before = {path.name: path.read_bytes() for path in (here / "out").iterdir()}
    assert "weights.npz" in before and call(*ASKED).exit_code == 0  # numbers are the same bytes again
    program = here / "out" / "train.py"
    program.write_text(program.read_text() + "# mine\n")
    (here / "out" / "weights.npz").unlink()
    told = call(*ASKED)
    assert told.exit_code == 2 and "train.py has other content than this export" in told.stderr and "--force" in told.stderr
    assert program.read_text().endswith("# mine\n") and not (here / "out" / "weights.npz").exists()  # nothing is written
    assert call(*ASKED, "--force").exit_code == 0
    assert {path.name: path.read_bytes() for path in (here / "out").iterdir()} == before
