import json
import subprocess
import sys
from types import ModuleType

import pytest
from click.testing import CliRunner

from benchmarks import models, peers
from benchmarks.pairs import OURS, Figures


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The command sets these for its process, which here is everybody's."""
    for name in ("HF_HUB_OFFLINE", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "1")


@pytest.fixture
def world_of(monkeypatch, tiny_model):
    """`world_of(name=Work or figures)`: the works there are; those that are figures measure nothing and print."""

    def go(**works):
        for name, figures in works.items():
            if isinstance(figures, Figures):
                module = ModuleType(f"fake_{name}")
                module.measure = lambda setting, found=(name, figures): sys.stdout.write("noise") and dict([found])
                monkeypatch.setitem(sys.modules, module.__name__, module)
                works[name] = peers.Work(module.__name__)
        monkeypatch.setattr(peers, "WORKS", works)
        monkeypatch.setattr(models, "open_setting", lambda kind, device, quick: models.Setting(kind, tiny_model, quick))

    return go


def call(*arguments):
    return CliRunner().invoke(peers.main, arguments)


SLOW = Figures.of("run", {OURS: [2.0], "peer": [3.0]}, "peer", at_least=2.0, notes=("why it is so",))


def test_json_is_all_there_is_on_stdout_and_a_missed_goal_is_no_error(world_of):
    world_of(slow=SLOW)
    result = call("--json")
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert said["slow"]["met"] is False
    assert said["slow"]["ratio"] == 1.5
    assert {"ratio", "low", "high", "ours", "peer", "limit_share"} <= set(said["slow"])


def test_the_table_has_figures_goal_and_notes(world_of):
    world_of(slow=SLOW, late=Figures("call", 0.25, most_seconds=0.3))
    result = call()
    assert "slow: 1.50 (1.50 to 1.50), 2, 3, why it is so" in result.stderr.splitlines()  # as soon as it is measured
    lines = result.stdout.splitlines()
    assert lines[2].split() == ["slow", "1.50", "(1.50", "to", "1.50)", "2", "3", ">=", "2", "no"]
    assert lines[3].split() == ["late", "0.25", "<=", "0.3", "s", "yes"]
    assert "slow: why it is so" in lines
    assert "late: seconds of a call" in lines


def test_overhead_is_in_per_cent(world_of):
    world_of(over=Figures.of("loop", {OURS: [1.01, 1.03, 1.02], "bare": [1.0] * 3}, "bare", most_overhead=0.02))
    assert "+2.0% (+1.0% to +3.0%)" in call().stdout


def test_a_work_without_its_peer_is_skipped_and_says_why(world_of):
    world_of(absent=peers.Work("never_imported", ("trl", "no_such_peer")), slow=SLOW)
    reason = "skipped: no_such_peer not installed (pip install -e '.[dev]')"
    assert json.loads(call("--json").stdout)["absent"] == {"skipped": reason}
    assert f"absent: {reason}" in call().stdout


def test_only_some_are_measured_in_the_tables_order(world_of):
    world_of(a=SLOW, b=SLOW, c=SLOW)
    assert list(json.loads(call("--json", "--only", "c, a").stdout)) == ["a", "c"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "sft,stf"], "'stf': there are sft, lora, dpo"),
        (["--model", "large"], "'large' is not one of"),
        (["--device", "tpu"], "'tpu' is not one of"),
        (["--pairs", "3"], "No such option"),
    ],
)
def test_bad_arguments_end_with_2(arguments, says):
    result = call(*arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_a_device_that_is_not_there_is_a_bad_argument(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = call("--device", "cuda")
    assert result.exit_code == 2
    assert "torch finds no cuda device" in result.output


def test_a_model_that_is_not_there_ends_with_4_and_one_line(monkeypatch):
    def absent(*_, **__):
        why = "SmolLM2 is not installed"
        raise models.ModelAbsentError(why)

    monkeypatch.setattr(models, "open_setting", absent)
    result = call("--model", "smollm2", "--json")
    assert result.exit_code == 4
    assert result.stdout == ""
    assert result.stderr == "SmolLM2 is not installed\n"


def test_every_work_of_the_table_is_a_module():
    for work in peers.WORKS.values():
        assert peers.importlib.util.find_spec(work.module) is not None


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_everything_works_in_haste():
    pytest.importorskip("trl")
    pytest.importorskip("peft")
    pytest.importorskip("its_hub")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", "--quick", "--json"], check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    assert set(peers.WORKS) - set(found) == {"start-up"}  # which has a line for each of its commands
    assert not [name for name, figures in found.items() if "skipped" in figures]
    assert all(figures["ours"] > 0 for figures in found.values())
    for name in ("sft", "lora", "dpo"):
        assert any(note.startswith("losses equal to 4 digits") for note in found[name]["notes"])
    for name in ("sampling", "sampling-long"):
        assert "greedy answers equal token for token: 4 of 4" in found[name]["notes"]
