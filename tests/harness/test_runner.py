"""Runs as users start them: resume, kills, two at once, hostile methods, interrupts. Each is a real command."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.config import RunConfig
from harness.plan import Plan, PlannedJob
from harness.runner import missing, register_cells, runnable
from harness.store import Store

SMALL = ("-m", "sft", "-m", "base + cot-prompting", "--limit", "4", "--train-tokens", "1500", "--seeds", "0,1")
TIMES = ("_s", "ratio_to_greedy", "throughput_qps", "peak_memory_bytes", "break_even_questions")


def harness(*arguments, timeout=300, **kwargs):
    command = [sys.executable, "-m", "harness.cli", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout, **kwargs)


def figures(folder):
    """Both boards without what a clock or the memory of a process decides."""
    boards = [json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("accuracy", "latency")]
    rows = [{k: v for k, v in row.items() if not k.endswith(TIMES)} for board in boards for row in board["rows"]]
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def records(folder):
    return sorted(p.name for sub in ("cells", "timings", "stages") for p in (folder / sub).glob("*.json"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    done = harness("run", *SMALL, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_ends_with_both_boards_and_the_next_command(whole):
    done = harness("run", *SMALL, "--out", whole)
    assert done.returncode == 0
    assert "0 jobs to do, 14 results already in the store" in done.stdout
    assert str(whole / "accuracy.md") in done.stdout
    assert "As many test problems as usual: harness run -m sft" in done.stdout
    rows = json.loads((whole / "accuracy.json").read_text(encoding="utf-8"))["rows"]
    assert {row["pipeline"] for row in rows} == {"base", "sft", "base + cot-prompting"}
    assert all(row["seeds"] == [0, 1] and row["n"] == 4 and row["status"] == "ok" for row in rows)


def test_boards_are_remade_from_the_facts_alone(whole):
    boards = {path: path.read_bytes() for path in whole.glob("*.*") if path.stem in ("accuracy", "latency")}
    assert len(boards) == 6
    for path in boards:
        path.unlink()
    assert harness("boards", whole).returncode == 0
    assert {path: path.read_bytes() for path in boards} == boards


def test_fresh_does_everything_again_and_gives_the_same_figures(whole, tmp_path):
    subprocess.run(["cp", "-r", f"{whole}/.", str(tmp_path)], check=True)
    done = harness("run", *SMALL, "--out", tmp_path, "--fresh")
    assert "14 jobs to do, 0 results" in done.stdout
    assert figures(tmp_path) == figures(whole)


def test_kill_minus_nine_loses_and_doubles_nothing(whole, tmp_path):
    """Twenty kills at random points of the run and of its resumes, then the same command to the end."""
    generator = random.Random(5)
    kept = set()
    for _ in range(20):
        command = [sys.executable, "-m", "harness.cli", "run", *SMALL, "--out", str(tmp_path)]
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(generator.uniform(1, 14))
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        now = set(records(tmp_path))
        assert kept <= now  # nothing that was published is lost
        kept = now
        if len(now) == len(records(whole)):
            kept = set()
            subprocess.run(["rm", "-rf", str(tmp_path)], check=True)
            tmp_path.mkdir()
    assert harness("run", *SMALL, "--out", tmp_path).returncode == 0
    assert records(tmp_path) == records(whole)  # none twice, none missing
    assert figures(tmp_path) == figures(whole)


def test_runs_side_by_side_on_one_folder(whole, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: harness("run", *SMALL, "--out", tmp_path), range(2)))
    assert [run.returncode for run in done] == [0, 0], done[0].stderr + done[1].stderr
    assert records(tmp_path) == records(whole)
    assert figures(tmp_path) == figures(whole)


HOSTILE = '''
"""Methods that misbehave."""
import os, signal, sys, time
from dataclasses import dataclass
from typing import ClassVar
import torch
from harness import Answer, hookimpl
from harness.toolbox import sample

def method(label, body):
    def answer(self, model, prompt, run):
        body(model)
        return Answer(sample(model, prompt, run, temperature=0.0)[0].text)
    cls = type("Method", (), {"name": label, "family": "test-time", "answer": answer, "__doc__": "A method.",
                              "__module__": __name__})
    cls.__annotations__ = {}
    return dataclass(frozen=True)(cls)

def raises(model): raise RuntimeError("I am\\nbroken")
def crashes(model): os.kill(os.getpid(), signal.SIGSEGV)
def leaves(model): os._exit(0)
def exits(model): sys.exit(0)
def hangs(model): time.sleep(1000)
def noisy(model): print("\\x1b[31m\\0" + "x" * 100_000)
def dirty(model):
    os.environ["DIRT"] = "1"; os.chdir("/"); torch.manual_seed(1); torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)

@dataclass(frozen=True)
class Diverges:
    """A trainer whose weights run away."""
    name: ClassVar[str] = "diverges"
    family: ClassVar[str] = "fine-tuning"
    def train(self, model, data, run):
        next(model.parameters()).data[0] = float("nan")

@hookimpl
def harness_methods():
    bodies = (raises, crashes, leaves, exits, hangs, noisy, dirty)
    return [method(f"a-{body.__name__}", body) for body in bodies] + [Diverges]
'''


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run of methods of which most misbehave, and a clean one of what was run beside them."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "plugin_hostile.py").write_text(HOSTILE, encoding="utf-8")
    info = folder / "harness_hostile-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: harness-hostile\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[harness]\nhostile = plugin_hostile\n", encoding="utf-8")
    names = ("raises", "crashes", "leaves", "exits", "hangs", "noisy", "dirty")
    wanted = [x for name in names for x in ("-m", f"a-{name}")]
    environment = {**os.environ, "PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    run = ("run", *wanted, "-m", "diverges", "-m", "base + cot-prompting", "--limit", 3, "--timeout", 25)
    done = harness(*run, "--out", folder / "out", "-j", 1, "--json", env=environment, timeout=600)
    return folder / "out", done, lambda *more: harness(*more, env=environment)


def test_hostile_methods_are_failed_rows_and_the_others_finish(hostile):
    _, done, _ = hostile
    assert done.returncode == 1
    rows = {row["pipeline"]: row for row in json.loads(done.stdout)["accuracy"]}  # stdout parses whatever was printed
    status = {name.removeprefix("base + a-"): row["status"] for name, row in rows.items()}
    assert status["base"] == status["base + cot-prompting"] == status["noisy"] == status["dirty"] == "ok"
    assert status["raises"] == "failed"
    assert status["crashes"] == status["leaves"] == status["exits"] == "crashed"
    assert status["hangs"] == "timeout"
    assert rows["base + a-raises"]["reason"].startswith("RuntimeError: I am broken")
    assert rows["diverges"]["status"] in ("skipped", "diverged")
    assert all(row["rank_low"] is None for row in rows.values() if row["status"] != "ok")


def test_what_follows_a_dirty_method_is_as_if_it_ran_alone(hostile, tmp_path):
    folder, _, again = hostile
    assert again("run", "-m", "base + cot-prompting", "--limit", 3, "--out", tmp_path).returncode == 0
    for alone in Store(tmp_path).records("answers"):
        beside = Store(folder).get("answers", alone["key"])
        assert beside["answers"] == alone["answers"]


def test_show_gives_the_reason_and_the_traceback(hostile):
    folder, _, again = hostile
    shown = again("show", "base + a-raises", "--out", folder)
    assert "RuntimeError: I am broken" in shown.stdout
    assert "plugin_hostile.py" in shown.stdout


def test_interrupt_keeps_what_is_done(tmp_path):
    command = [sys.executable, "-m", "harness.cli", "run", *SMALL, "--out", str(tmp_path)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in run.stdout:
        if line.startswith("[1/"):
            break
    before = time.monotonic()
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert time.monotonic() - before < 30
    assert run.returncode == 2
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert records(tmp_path)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = harness("run", "-m", "base", "--limit", "1", "--out", tmp_path / "file" / "out")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(tmp_path / "file") in done.stderr


NO_NETWORK = """
import socket
def refuse(self, address):
    if self.family != socket.AF_UNIX:
        raise OSError("the network is blocked")
socket.socket.connect = refuse
"""


def test_it_needs_no_network(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = harness("run", "-m", "base", "--limit", "2", "--out", tmp_path / "out", env=environment)
    assert done.returncode == 0, done.stderr


# -- the parts, by themselves


def job(kind, key, after=(), pipeline="p"):
    return PlannedJob(kind, key, {"row": {"pipeline": pipeline}, "seed": 0}, after)


def test_only_what_is_missing_and_needed_is_done(tmp_path):
    a, b, c, d = "aa", "bb", "cc", "dd"
    plan = Plan((), (job("stage", a), job("stage", b, (a,)), job("answers", c, (a, b)), job("answers", d, (a,))))
    store = Store(tmp_path)
    assert [j.key for j in missing(plan, store)] == [a, b, c, d]
    store.publish("answers", "x", c, {})
    assert [j.key for j in missing(plan, store)] == [a, d]  # b is needed by nothing that is missing
    store.publish("answers", "x", d, {})
    assert missing(plan, store) == []


def test_what_needs_a_poisoned_job_is_not_run():
    jobs = [job("stage", "aa"), job("answers", "bb", ("aa",)), job("answers", "cc")]
    assert [j.key for j in runnable(jobs, {"aa"})] == ["cc"]


def test_a_folder_collects_runs_of_one_setting_and_starts_anew_with_another(tmp_path):
    def keys(name, key, **changes):
        plan = Plan((name,), (job("answers", key, pipeline=name),))
        return register_cells(tmp_path, plan, RunConfig(**changes))

    assert keys("a", "aa") == ["aa"]
    assert keys("b", "bb") == ["aa", "bb"]
    assert keys("a", "cc") == ["bb", "cc"]  # the method was edited: its former self is replaced
    assert keys("a", "dd", limit=5) == ["dd"]


def test_what_is_typed_as_it_is_by_default_adds_to_the_same_board(tmp_path):
    for more in (["-m", "base"], ["-m", "base + cot-prompting", "--train-tokens", "128000"]):
        done = harness("run", *more, "--limit", "2", "--out", tmp_path)
        assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "accuracy.json").read_text(encoding="utf-8"))["rows"]
    assert {row["pipeline"] for row in rows} == {"base", "base + cot-prompting"}
