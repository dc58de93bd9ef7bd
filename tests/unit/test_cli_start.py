"""The first minutes: a scenario is written and runs, an installation is looked at, a shell offers names, an error the next command."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import parsim
from parsim.cli import app
from parsim.commands.completing import plans_in
from parsim.errors import Fault, ScenarioError
from parsim.report import doctoring, starting
from parsim.report.examples import EXAMPLES
from parsim.report.ways_out import COMMANDS, way_out
from support import tiered

ROOT = Path(__file__).parents[2]
ASKED = ("--model", "llama3-8b", "--node", "a100-40gb", "--num-devices", "4", "--global-batch", "64", "--sequence-length", "4096")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_what_init_writes_passes_check_and_its_plan_is_the_best_that_plan_finds(here: Path) -> None:
    done = call("init", *ASKED, "-o", "mine.yaml")
    assert done.exit_code == 0, done.stderr
    assert call("check", "mine.yaml").exit_code == 0
    written = parsim.load("mine.yaml")
    (best,) = parsim.plan(written, space={"tensor_parallel": "auto", "pipeline_parallel": "auto"}, top=1).rows
    assert parsim.estimate(written, "best").fits and parsim.estimate(written, "best").step_s <= best.step_s
    assert (written.batch.global_batch, written.batch.sequence_length, written.cluster.num_devices) == (64, 4096, 4)
    text = Path("mine.yaml").read_text()
    keys = [line for line in text.splitlines() if line.startswith("  ") and ":" in line and "#" not in line and "search:" not in line]
    assert not keys, "a line that says nothing of what it means"
    named = [line.split()[1:3] for line in text.splitlines() if line.startswith("#   parsim ")]
    assert {command for _, command in named} >= {"check", "run", "plan", "explain", "whatif"}


def test_init_overwrites_nothing_not_even_a_link_to_nowhere(here: Path) -> None:
    Path("mine.yaml").write_text("mine")
    Path("link.yaml").symlink_to("nowhere")
    for name in ("mine.yaml", "link.yaml"):
        for arguments in (ASKED, ("--example", "mlp")):
            done = call("init", *arguments, "-o", name)
            assert done.exit_code == 2 and "nothing is overwritten" in done.stderr
    assert Path("mine.yaml").read_text() == "mine" and not Path("nowhere").exists()


def test_a_disk_without_room_is_told_with_the_file_and_nothing_is_left(here: Path) -> None:
    from fuzz import watched_run

    (here / "here").mkdir()
    (here / "here" / "tiny.yaml").write_text((ROOT / "scenarios" / "tiny.yaml").read_text())
    for arguments in (("init", "--example", "mlp", "-o", "full.yaml"), ("plot", "tiny.yaml")):
        end = watched_run.run(arguments, here / "here", full=True)
        assert end.kind is watched_run.Kind.ERROR and not end.faults, end
        assert ("full.yaml: " in end.err or "plans.csv: " in end.err) and "Next: parsim" in end.err
        assert not [*(here / "here").rglob("*full*"), *(here / "here").rglob("*plans*")]


def test_init_asks_nothing_where_nobody_can_answer(here: Path) -> None:
    done = call("init")
    assert done.exit_code == 2 and "needs --model and --node" in done.stderr and "parsim init --model" in done.stderr
    assert not [*here.iterdir()]


def test_init_asks_on_a_terminal_and_asks_again_where_an_answer_cannot_be(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    answers = ["tiny-gtp", "tiny-gpt", "", "none", "8", "16", "many", "64", "fp7", "bf16", "torchtitan"]
    monkeypatch.setattr("sys.stdin", Terminal("\n".join(answers) + "\n"))
    asked: list[str] = []
    monkeypatch.setattr(starting, "log", asked.append)
    assert starting.write_scenario({"model": None, "node": None, "num_devices": None}, Path("asked.yaml")) == 0
    told = "\n".join(asked)
    assert "did you mean 'tiny-gpt'" in told and told.count("must be a number") == 2 and "fp7" in told
    written = parsim.load("asked.yaml")
    assert written.cluster.num_devices == 8 and written.cluster.node.name == "hgx-h100-80gb"
    assert (written.batch.sequence_length, written.batch.global_batch, written.stack.name.split("-")[0]) == (16, 64, "torchtitan")
    monkeypatch.setattr("sys.stdin", Terminal("tiny-gpt\n"))
    with pytest.raises(parsim.ParsimError, match="no more answers, and nothing is written"):
        starting.write_scenario({"model": None, "node": None}, Path("left.yaml"))
    assert not Path("left.yaml").exists()


def test_where_no_plan_fits_init_says_so_and_leaves_the_space(here: Path) -> None:
    done = call("init", "--model", "gpt3-175b", "--node", "one-cpu-generic", "--global-batch", "1", "-o", "big.yaml")
    assert done.exit_code == 0 and "parsim run" not in done.stdout and "parsim plan big.yaml" in done.stdout
    assert "none fits the memory" in Path("big.yaml").read_text()
    assert call("check", "big.yaml").exit_code == 0 and not parsim.load("big.yaml").plans


def test_a_config_of_hugging_face_is_named_from_where_the_file_lies(here: Path) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "vocab_size": 64}
    config = {"model_type": "llama", "max_position_embeddings": 32, "hidden_act": "silu", "rms_norm_eps": 1e-5, **sizes}
    Path("config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **config}))
    done = call("init", "--model", "hf:config.json", "--node", "dgx-a100-80gb", "--global-batch", "64", "-o", "new/mine.yaml")
    assert done.exit_code == 0, done.stderr
    assert 'model: "hf:../config.json"' in Path("new/mine.yaml").read_text()
    assert call("check", "new/mine.yaml").exit_code == 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_the_shipped_scenario_and_needs_no_checkout(name: str, here: Path) -> None:
    done = call("init", "--example", name)
    file = EXAMPLES[name][0]
    assert done.exit_code == 0 and f"parsim execute {file}.yaml --plan " in done.stdout
    assert (here / f"{file}.yaml").read_text() == (ROOT / "scenarios" / f"{file}.yaml").read_text()
    assert call("init", "--example", name, "--model", "tiny-gpt").exit_code == 2


def test_the_help_of_init_names_every_example() -> None:
    said = " ".join(call("init", "--help").stdout.replace("│", " ").split())
    assert all(f"{name}," in said or f"{name} or" in said or f"or {name}" in said for name in EXAMPLES)


def test_doctor_says_of_each_part_whether_it_is_sound(here: Path) -> None:
    done = call("doctor", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["sound"]) == (0, True), found
    state = {each["name"]: each["state"] for each in found["findings"]}
    assert state["a tiny step, predicted and executed"] == state["catalog"] == state["numpy"] == "ok"
    assert {"worker processes, shared memory", "MPI launcher", "folders", "terminal", "cores", "figures"} <= {*state}
    lacking = [each for each in found["findings"] if each["state"] == "lacking" and each["name"].startswith("[")]
    assert all(f"parsim-llm{each['name']}" in each["mend"] for each in lacking)


def test_doctor_ends_with_1_where_the_core_is_not_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctoring.Finding:
        raise RuntimeError("no such library")

    monkeypatch.setattr(
        doctoring, "_packages", lambda: iter([doctoring.Finding("numpy", "wrong", "1.0, >=1.26 is required", "pip install x")])
    )
    monkeypatch.setattr(doctoring, "_CHECKS", (broken,))
    done = call("doctor")
    assert done.exit_code == 1
    assert "RuntimeError: no such library" in done.stdout and "cannot do its work" in done.stdout and "pip install x" in done.stdout


def test_doctor_tells_versions_apart_as_pip_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.9.2")
    assert doctoring.state_of("some", ">=1.9,<2") == ("1.9.2, >=1.9,<2 is required", True)
    assert (
        not doctoring.state_of("some", ">=1.10")[1]
        and doctoring.state_of("some", "!=1.9")[1]
        and not doctoring.state_of("some", "~=1.8.0")[1]
    )


def test_doctor_knows_what_every_extra_gives() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {*extras} <= {*doctoring.GIVES}


SHIPPED = sorted((ROOT / "scenarios").glob("*.yaml"))


@pytest.mark.parametrize("path", [tiered(path, path.stem, slow=place % 6 > 0) for place, path in enumerate(SHIPPED)])
def test_names_of_plans_are_found_as_a_scenario_has_them(path: Path) -> None:
    scenario, names = parsim.load(path), plans_in(path.read_text())
    assert len(names) == len({*names}) and {*names} == {*scenario.plans, *scenario.spaces}


OFFERS = {
    "parsim dir --model llama3-8": "llama3-8b",
    "parsim plan --node mi30": "mi300x-8",
    "parsim show dgx-b2": "dgx-b200",
    "parsim explain FILE mas": "master",
    "parsim execute FILE --plan mas": "master",
    "parsim init --example mlp": "mlp",
    "parsim advis": "advise",
}


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_completes_commands_names_of_the_catalog_and_plans_of_the_scenario(tmp_path: Path) -> None:
    asked = [line.replace("dir", "run").replace("FILE", str(ROOT / "scenarios" / "tiny.yaml")) for line in OFFERS]
    program = tmp_path / "parsim"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m parsim "$@"\n')
    program.chmod(0o755)
    script = 'eval "$(_PARSIM_COMPLETE=source_bash parsim)"\n'  # what --install-completion puts into ~/.bashrc
    for line in asked:
        script += f'COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _parsim_completion parsim; echo "${{COMPREPLY[@]}}"\n'
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    places = os.pathsep.join((str(ROOT), str(ROOT / "kernels")))
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path, "PYTHONPATH": places},
    )
    offered = [line.split() for line in done.stdout.splitlines()]
    assert len(offered) == len(OFFERS), done.stderr
    assert all(wanted in found for wanted, found in zip(OFFERS.values(), offered, strict=True)), (offered, done.stderr)


def test_a_shell_that_asks_for_names_imports_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['parsim']; from parsim import cli\ntry: cli.main()\nexcept SystemExit: pass\n"
    code += "print([name for name in ('numpy', 'simpy', 'networkx', 'matplotlib', 'ruamel', 'rich') if name in sys.modules])"
    asked = {"_PARSIM_COMPLETE": "complete_bash", "COMP_WORDS": "parsim plan --node mi300x-", "COMP_CWORD": "3"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **asked})
    assert done.stdout.split("\n") == ["mi300x-8", "mi300x-192gb", "[]", ""]


def test_a_sentence_that_speaks_of_parsim_names_no_command_unless_it_is_one() -> None:
    assert sorted(COMMANDS) == sorted(str(each.name or getattr(each.callback, "__name__", "")) for each in app.registered_commands)
    what = "no launcher that parsim knows reads it"
    assert way_out(parsim.ParsimError(what, "x.txt"), what, "import") == "  Next: parsim import --help shows how to ask."


def test_an_error_without_a_command_is_given_the_next_one() -> None:
    fault = Fault("s.yaml", 1, 1, "model", "unknown model 'x'; known: a, b")
    assert way_out(ScenarioError.of([fault]), str(fault), "run") == "  Next: parsim list models shows those of the catalog."
    nowhere = Fault("a b.yaml", 0, 0, "", "no such file")
    assert "parsim init -o 'a b.yaml'" in way_out(ScenarioError.of([nowhere]), str(nowhere), "run")
    assert way_out(parsim.ParsimError("x", remedy="E.g. parsim plan a.yaml"), "x\n  E.g. parsim plan a.yaml", "plan") == ""
    assert "parsim doctor" in way_out(OSError(13, "denied", "/x"), "/x: denied", "run")
    assert way_out(OSError(28, "full", "stdout"), "stdout: full", "run") == ""


@pytest.mark.parametrize(("file", "command"), [("steps.csv", "calibrate"), ("--set stack", "run")])
@pytest.mark.parametrize("message", ["no such file", "step_s = '-1' is no number above 0"])
def test_what_is_no_scenario_is_not_to_be_checked_or_written(file: str, command: str, message: str, here: Path) -> None:
    (here / "steps.csv").touch()
    fault = Fault(file, 2, 1, "", message)
    assert way_out(ScenarioError.of([fault]), str(fault), command) == f"  Next: parsim {command} --help shows how to ask."


def test_a_file_of_a_launcher_is_no_scenario_to_check(tmp_path: Path) -> None:
    file = tmp_path / "ds_config.json"
    file.write_text('{"train_batch_size')
    fault = Fault(str(file), 1, 1, "", "not YAML")
    assert "parsim check" not in way_out(ScenarioError.of([fault]), str(fault), "import")
    assert "parsim check" in way_out(ScenarioError.of([fault]), str(fault), "run")
