"""Timings: whose code a benchmark process runs, and what it says; how long it took is nobody's business here."""

import os
import shutil
import subprocess
import sys

import pytest

from benchmarks.compare import ROOT
from benchmarks.timings import Timing, environment, measure


@pytest.fixture
def tree(tmp_path):
    """A copy of what a process needs of this tree, in which one plugin less is known."""
    root = tmp_path / "tree"
    for folder in ("harness", "data"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    (root / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text().replace('dpo = "harness_rl.dpo"\n', ""))
    return root


def test_pace_is_time_in_units_of_the_fixed_loop():
    assert Timing(0.5, 0.25).pace == 2.0


def test_a_process_sees_the_packages_and_entry_points_of_its_tree(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    asked = (
        "import harness, importlib.metadata as m; print(harness.__file__);"
        "print(len([e for e in m.entry_points(group='harness') if e.name == 'dpo']))"
    )
    told = environment(tree, tmp_path)
    said = subprocess.run([sys.executable, "-P", "-c", asked], env=told, check=True, capture_output=True, text=True)
    assert said.stdout.split("\n")[0] == str(tree / "harness" / "__init__.py")
    assert said.stdout.split()[1:] == ["0"]
    assert "PYTEST_ADDOPTS" not in told
    assert told["OMP_NUM_THREADS"] == "1"
    assert os.environ["PYTEST_ADDOPTS"]


def test_the_benchmarks_of_this_tree_run_on_the_code_of_another(tree, tmp_path):
    found = measure(tree, tmp_path, ("verify",))
    assert list(found) == ["verify"]
    assert 0 < found["verify"].pace < float("inf")


def test_what_a_tree_cannot_run_is_said_and_left_out(tree, tmp_path, capfd):
    verifier = tree / "data" / "harness_world" / "verifier.py"
    verifier.write_text(verifier.read_text().replace("def verify", "def check"))
    assert measure(tree, tmp_path, ("verify",)) == {}
    assert "cannot import name 'verify'" in capfd.readouterr().err


def test_the_installed_tree_is_never_measured_for_another(tree, tmp_path):
    shutil.rmtree(tree / "harness")  # so that the import falls through to what is installed
    with pytest.raises(RuntimeError, match=f"was measured, not {tree}"):
        measure(tree, tmp_path, ("verify",))
