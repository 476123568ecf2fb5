"""The worker alone: its lines, its end, and what it watches."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.executors.attempt import attempt, classify
from harness.executors.environment import worker_environment
from harness.executors.process_state import changes, snapshot

HERE = str(Path(__file__).parent)


@pytest.fixture
def worker():
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "harness.executors.worker", "hostile_jobs:run", str(write)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(write,),
        env=worker_environment(1, {"PYTHONPATH": HERE}),
        start_new_session=True,
    )
    os.close(write)
    with process, os.fdopen(read) as process.replies:
        yield process
        process.kill()


def ask(worker, **spec):
    worker.stdin.write(json.dumps({"spec": spec, "threads": 1, "timeout_s": 60.0}).encode() + b"\n")
    worker.stdin.flush()


def answer(worker):
    replies = []
    for line in worker.replies:
        replies.append(json.loads(line))
        if replies[-1]["event"] == "result":
            break
    return replies


def test_replies_are_lines_of_json_and_prints_are_elsewhere(worker):
    ask(worker, do="print_json")
    started, result = answer(worker)
    assert started == {"event": "started"}
    assert (result["status"], result["retire"]) == ("ok", False)
    ask(worker, do="ok", value=3)
    started, progress, result = answer(worker)
    assert progress == {"event": "progress", "data": {"step": 1}}
    assert result["result"]["value"] == 3
    assert set(result) == {"event", "status", "result", "reason", "seconds", "retire"}
    worker.stdin.close()
    assert worker.stdout.read().count(b'"event"') == 2


def test_a_changed_worker_says_so_and_leaves_with_success(worker):
    ask(worker, do="change", what="umask")
    assert answer(worker)[-1]["retire"] is True
    assert worker.wait(10) == 0
    assert b"[worker replaced, this job changed: umask]" in worker.stdout.read()


@pytest.mark.parametrize("busy", [True, False])
def test_a_closed_stdin_ends_it(worker, busy):
    ask(worker, do="hang" if busy else "ok")
    assert json.loads(worker.replies.readline()) == {"event": "started"}
    if not busy:
        answer(worker)
    worker.stdin.close()
    assert worker.wait(5) == -signal.SIGKILL


def test_it_starts_without_torch_and_numpy():
    code = "import sys, harness.executors.worker; print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_a_snapshot_of_an_unchanged_process_is_equal():
    assert changes(snapshot(), snapshot()) == []


def test_a_removed_working_directory_is_a_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = snapshot()
    tmp_path.rmdir()
    assert changes(before, snapshot()) == ["working directory"]


def test_torch_that_a_job_imported_is_compared_with_fresh_torch():
    assert changes({}, {"torch grad mode": True, "torch threads": 2}) == []
    assert changes({}, {"torch grad mode": False}) == ["torch grad mode"]
    assert changes({"environment": {}}, {"environment": {"TORCHINDUCTOR_CACHE_DIR": "x", "A": "1"}}) == [
        "environment (A)"
    ]


def test_no_exit_is_a_success():
    for error in (SystemExit(0), SystemExit(None), KeyboardInterrupt(), GeneratorExit()):
        assert classify(error) == "crashed"
    assert attempt(lambda: sys.exit(0)).status == "crashed"


def test_a_result_is_a_copy_through_json():
    assert attempt(lambda: {"a": (1, 2), 3: "key"}).result == {"a": [1, 2], "3": "key"}
