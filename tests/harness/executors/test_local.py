"""Local survives what its jobs do, and says what it was."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from harness.executors import Job
from harness.executors import local as local_module
from harness.executors.capture import log_name, plain
from harness.executors.environment import cores
from harness.executors.local import Local

HERE = str(Path(__file__).parent)


@contextlib.contextmanager
def workers(**options):
    executor = Local("hostile_jobs:run", **{"workers": 1, "env": {"PYTHONPATH": HERE}, **options})
    try:
        yield executor
    finally:
        executor.close()


def job(key, do="ok", *, exclusive=False, group="", after=(), timeout_s=30.0, **spec):
    return Job(key, {"do": do, **spec}, exclusive, group, tuple(after), timeout_s)


def outcomes(executor, *jobs):
    for item in jobs:
        executor.submit(item)
    return {outcome.key: outcome for outcome in executor.as_completed()}


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_gone_within(seconds, pids):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all(gone(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


# -- how jobs end


def test_a_warm_worker_runs_job_after_job_and_passes_progress_on():
    events = []
    with workers(on_progress=lambda key, event: events.append((key, event))) as executor:
        found = outcomes(executor, job("a", value=[1, "ä", None]), job("b"))
    assert [o.status for o in found.values()] == ["ok", "ok"]
    assert found["a"].result["value"] == [1, "ä", None]
    assert found["a"].reason is None
    assert found["a"].result["pid"] == found["b"].result["pid"] != os.getpid()
    assert events == [("a", {"step": 1}), ("b", {"step": 1})]


@pytest.mark.parametrize(
    ("do", "spec", "status", "reason"),
    [
        ("raise", {"kind": "value"}, "failed", "ValueError: first line second line"),
        ("raise", {"kind": "diverged"}, "diverged", "DivergedError: first line second line"),
        ("raise", {"kind": "oom"}, "oom", "OutOfMemoryError: first line second line"),
        ("unprintable", {}, "failed", "UnprintableError: <no text>"),
        ("memory_error", {}, "oom", "MemoryError"),
        ("cpu_allocator", {}, "oom", "RuntimeError: [enforce fail"),
        ("not_json", {"kind": "set"}, "failed", "TypeError: Object of type object is not JSON"),
        ("not_json", {"kind": "nan"}, "failed", "ValueError: Out of range float values"),
        ("not_a_dict", {}, "failed", "TypeError: the job returned NoneType, not a dict"),
        ("exit", {}, "crashed", "SystemExit: 0"),
        ("interrupt_itself", {}, "crashed", "KeyboardInterrupt"),
        ("hard_exit", {}, "crashed", "the process exited with code 0 before the job had ended"),
        ("segfault", {}, "crashed", "the process was killed by SIGSEGV"),
        ("close_everything", {}, "crashed", "the process was killed by SIGKILL"),
        ("forge_reply", {}, "crashed", "its replies are garbled"),
    ],
)
def test_an_end_is_named_and_the_next_job_runs(do, spec, status, reason):
    with workers() as executor:
        found = outcomes(executor, job("bad", do, **spec), job("next"))
    assert (found["bad"].status, found["bad"].result) == (status, None)
    assert found["bad"].reason.startswith(reason)
    assert found["next"].status == "ok"


def test_a_traceback_is_in_the_log_and_prints_before_a_hard_exit_too():
    with workers() as executor:
        found = outcomes(
            executor, job("raise", "raise", kind="value"), job("exit", "hard_exit"), job("segv", "segfault")
        )
    assert "in job_raise" in found["raise"].log
    assert "last words" in found["exit"].log
    assert "in job_segfault" in found["segv"].log


def test_a_target_that_cannot_be_imported_fails_its_jobs():
    with workers() as executor:
        executor._target = "no_such_module:run"
        found = outcomes(executor, job("a"), job("b"))
    assert {o.status for o in found.values()} == {"failed"}
    assert "No module named 'no_such_module'" in found["b"].reason


def test_a_child_that_comes_back_through_the_job_does_not_reply():
    with workers() as executor:
        found = outcomes(executor, job("twins", "forked_twin"), job("next"))
    assert found["twins"].result == {"child": False}
    assert found["next"].status == "ok"


def test_specs_and_results_larger_than_any_pipe():
    text = "x" * 3_000_000
    with workers() as executor:
        found = outcomes(executor, job("big", "big", text=text), job("next"))
    assert found["big"].result == {"echo": text}
    assert found["next"].status == "ok"


def test_a_reply_without_end_is_not_held(monkeypatch):
    monkeypatch.setattr("harness.executors.worker_handle.MAX_REPLY_BYTES", 1_000_000)
    with workers() as executor:
        found = outcomes(executor, job("big", "big", text="x" * 5_000_000), job("next"))
    assert (found["big"].status, found["big"].reason) == ("crashed", "its reply is larger than 0 MB")
    assert found["next"].status == "ok"


# -- time and memory


def test_a_hang_is_ended_and_says_where_it_hung():
    with workers() as executor:
        start = time.monotonic()
        found = outcomes(executor, job("hang", "hang", timeout_s=0.5), job("next"))
    assert time.monotonic() - start < 5
    assert (found["hang"].status, found["hang"].reason) == ("timeout", "no result after 0.5 s")
    assert 0.5 <= found["hang"].seconds < 4
    assert "in job_hang" in found["hang"].log
    assert found["next"].status == "ok"


def test_a_hang_that_ignores_sigterm_takes_its_children_with_it(monkeypatch):
    monkeypatch.setattr(local_module, "TERM_GRACE_S", 1.5)
    pids = []
    with workers(on_progress=lambda _, event: pids.extend(event["pids"])) as executor:
        start = time.monotonic()
        found = outcomes(executor, job("hang", "hang_ignoring_sigterm", timeout_s=1.0))
        assert found["hang"].status == "timeout"
        assert time.monotonic() - start < 1 + 1.5 + 5
        assert len(pids) == 3
        assert all_gone_within(1, pids)


def test_the_default_grace_is_within_the_promise():
    assert local_module.TERM_GRACE_S + 2 * local_module.POLL_S < 10
    assert local_module.CANCEL_GRACE_S + 1 < 5


@pytest.mark.parametrize("do", ["leak", "leak_in_a_child"])
def test_a_leak_is_stopped_at_the_cap(do):
    before = psutil.Process().memory_info().rss
    with workers(memory_bytes=200_000_000) as executor:
        found = outcomes(executor, job("leak", do), job("next"))
    assert found["leak"].status == "oom"
    assert re.fullmatch(r"\d\.\d\d GB in memory, the cap is 0\.20 GB", found["leak"].reason)
    assert found["next"].status == "ok"
    assert psutil.Process().memory_info().rss - before < 50_000_000


def test_a_child_left_behind_is_gone_before_the_next_job():
    with workers() as executor:
        found = outcomes(executor, job("leave", "leave_a_child"), job("next"))
        assert all_gone_within(1, [found["leave"].result["child"]])
    assert "this job changed: processes" in found["leave"].log
    assert found["next"].status == "ok"


# -- output


def test_much_output_is_capped_and_clean(tmp_path, capfd):
    before = psutil.Process().memory_info().rss
    with workers(log_dir=tmp_path / "logs", log_cap_bytes=1_000_000) as executor:
        found = outcomes(executor, job("loud", "print", megabytes=60, fail=True), job("next"))
    outcome, path = found["loud"], tmp_path / "logs" / "loud.log"
    assert outcome.reason == "ValueError: after much ado"
    assert len(outcome.log.encode()) <= 4096
    assert "the end" in outcome.log
    assert "in job_print" in outcome.log
    assert 900_000 < path.stat().st_size <= 1_000_000
    assert "[log capped: " in path.read_text()
    assert path.read_text().endswith(outcome.log)
    for text in (outcome.log, path.read_text()):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    assert "title" not in outcome.log
    assert psutil.Process().memory_info().rss - before < 30_000_000
    assert capfd.readouterr() == ("", "")


def test_prints_cannot_reach_the_replies_and_stdin_is_empty():
    with workers() as executor:
        found = outcomes(executor, job("json", "print_json"), job("next"))
    assert found["json"].result == {"stdin": ""}
    assert found["json"].log.count('"event"') == 2
    assert found["next"].log == ""


def test_a_log_that_cannot_be_written_costs_only_the_log(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with workers(log_dir=tmp_path / "file") as executor:
        found = outcomes(executor, job("json", "print_json"))
    assert found["json"].status == "ok"


@pytest.mark.parametrize("key", ["../../etc/x", "/absolute", "a\0b", "", "é" * 300, "con\n", "a/b", "a-b", "A" * 101])
def test_log_names_stay_in_their_folder(key):
    name = log_name(key)
    assert re.fullmatch(r"[A-Za-z0-9._-]{4,120}", name)
    assert log_name("a/b") != log_name("a-b") == "a-b.log"


def test_plain_text_keeps_what_is_text():
    assert plain("a\tb\r\nc\rd \x1b[1;31me\x1b[0m\x1b]8;;http://x\x1b\\f\x9bg\u202eh\x1b") == "a\tb\nc\nd efgh"
    assert plain("\x1b]0;unterminated and more") == "]0;unterminated and more"


# -- state


CHANGES = ["environment", "working directory", "umask", "signal handlers", "sys.path", "recursion limit", "seeds"]


def without_pid(outcome):
    return {key: value for key, value in outcome.result.items() if key != "pid"}


def test_after_any_change_the_next_job_is_as_if_alone():
    with workers() as executor:
        solo = without_pid(outcomes(executor, job("solo", "look"))["solo"])
    changes = [*CHANGES, "standard streams", "raise"]
    jobs = [j for what in changes for j in (job(what, "change", what=what), job("look " + what, "look"))]
    with workers(workers=1) as executor:
        found = outcomes(executor, *jobs)
    for what in changes:
        assert without_pid(found["look " + what]) == solo
        if what == "seeds":  # seeded again before each job: the worker may stay
            assert found[what].result["pid"] == found["look seeds"].result["pid"]
            assert found[what].result["draws"] != solo["draws"]
        else:
            assert "worker replaced" in found[what].log
    assert "this job changed: environment (NAME)]" in found["environment"].log
    assert "s3cret" not in found["environment"].log


def test_torch_state_is_watched_and_its_threads_are_set():
    with workers(workers=1, threads_per_worker=1) as executor:
        found = outcomes(
            executor,
            job("import", "torch_change"),  # imports torch while it runs
            job("look", "torch_look"),
            job("dtype", "torch_change", what="torch default dtype"),
            job("look again", "torch_change"),
            job("grad", "torch_change", what="torch grad mode"),
            job("shared", "torch_look"),
            job("alone", "torch_look", exclusive=True),
        )
    assert {o.status for o in found.values()} == {"ok"}
    assert found["import"].result["pid"] == found["look"].result["pid"] == found["dtype"].result["pid"]
    assert without_pid(found["import"]) == without_pid(found["look again"])
    assert found["import"].result["draws"] != found["look"].result["draws"]
    assert found["look"].result["threads"] == 1
    assert "this job changed: torch default dtype]" in found["dtype"].log
    assert "this job changed: torch grad mode]" in found["grad"].log
    assert found["alone"].result == {**found["shared"].result, "threads": cores()}
    assert without_pid(found["shared"]) == without_pid(found["look"])


# -- order


def test_dependencies_run_in_order_and_skips_spread():
    with workers(workers=2) as executor:
        found = outcomes(
            executor,
            job("last", after=["middle"]),
            job("middle", "sleep", seconds=0.1, after=["first"]),
            job("first", "sleep", seconds=0.1),
            job("broken", "raise", kind="value"),
            job("after broken", after=["first", "broken"]),
            job("after skipped", after=["after broken"]),
            job("after nobody", after=["nobody"]),
            job("egg", after=["hen"]),
            job("hen", after=["egg"]),
        )
    order = list(found)
    assert order.index("first") < order.index("middle") < order.index("last")
    assert found["last"].status == "ok"
    assert found["middle"].result["start"] >= found["first"].result["end"]
    skipped = {key: o.reason for key, o in found.items() if o.status == "skipped"}
    assert skipped == {
        "after broken": "comes after 'broken', which is failed",
        "after skipped": "comes after 'after broken', which is skipped",
        "after nobody": "comes after 'nobody', which was never submitted",
        "egg": "comes after 'hen', which waits for it in turn",
        "hen": "comes after 'egg', which is skipped",
    }


def test_an_exclusive_job_never_overlaps_and_has_all_threads():
    jobs = [job(f"e{i}", "sleep", seconds=0.2, exclusive=True) for i in range(3)]
    jobs[1:1] = [job(f"s{i}", "sleep", seconds=0.3) for i in range(4)]
    jobs.append(job("late", "sleep", seconds=0.2, after=["e0"]))
    with workers(workers=2, threads_per_worker=1) as executor:
        found = outcomes(executor, *jobs)
    times = {key: (o.result["start"], o.result["end"]) for key, o in found.items()}
    for key in ("e0", "e1", "e2"):
        start, end = times.pop(key)
        assert all(end <= s or e <= start for s, e in times.values()), key
        times[key] = (start, end)
        assert found[key].result["threads"] == str(cores())
    assert found["s0"].result["threads"] == "1"
    assert times["s0"][0] < times["s1"][1] and times["s1"][0] < times["s0"][1]  # noqa: PT018 - they do overlap


def test_the_parents_work_on_an_outcome_never_overlaps_with_an_exclusive_job():
    with workers() as executor:
        executor.submit(job("shared"))
        executor.submit(job("timed", "sleep", seconds=0.1, exclusive=True))
        results, busy_until = executor.as_completed(), 0.0
        assert next(results).key == "shared"
        time.sleep(0.5)
        busy_until = time.time()
        assert next(results).result["start"] >= busy_until


def test_a_group_is_not_run_twice_at_once_if_another_job_is_ready():
    jobs = [job(f"{group}{i}", "sleep", seconds=0.4, group=group) for group in "ab" for i in range(2)]
    with workers(workers=2) as executor:
        found = outcomes(executor, *jobs)
        times = {key: (o.result["start"], o.result["end"]) for key, o in found.items()}
        for group in "ab":
            (_, first_end), (second_start, _) = sorted(times[f"{group}{i}"] for i in range(2))
            assert first_end <= second_start + 0.1
        # but a worker does not idle for it
        found = outcomes(executor, *(job(f"c{i}", "sleep", seconds=0.5, group="c") for i in range(2)))
    (_, first_end), (second_start, _) = sorted((o.result["start"], o.result["end"]) for o in found.values())
    assert second_start < first_end


def test_jobs_may_be_submitted_between_outcomes_and_keys_are_taken_once():
    with workers() as executor:
        executor.submit(job("a"))
        seen = []
        for outcome in executor.as_completed():
            seen.append(outcome.key)
            if outcome.key == "a":
                executor.submit(job("b", after=["a"]))
        assert seen == ["a", "b"]
        with pytest.raises(ValueError, match="submitted before"):
            executor.submit(job("a"))
        with pytest.raises(TypeError):
            executor.submit(job("c", value=object()))
        with pytest.raises(ValueError, match="time-out"):
            executor.submit(job("d", timeout_s=0))


# -- the user and the parent


def test_ctrl_c_ends_all_workers_within_five_seconds(monkeypatch):
    pids = []
    with workers(workers=2, on_progress=lambda _, e: pids.extend(e.get("pids", [e.get("pid")]))) as executor:
        executor.submit(job("a", "hang"))
        executor.submit(job("b", "hang_ignoring_sigterm"))
        executor.submit(job("waits"))
        pressed = []

        def press():
            while len(pids) < 4:
                time.sleep(0.05)
            pressed.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=press)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            list(executor.as_completed())
        took = time.monotonic() - pressed[0]
        thread.join()
        assert took < 5
        assert all_gone_within(0.5, pids)
        rest = {o.key: (o.status, o.reason) for o in executor.as_completed()}
        assert rest == {
            "a": ("cancelled", "cancelled while it ran"),
            "b": ("cancelled", "cancelled while it ran"),
            "waits": ("cancelled", "cancelled before it began"),
        }
        assert outcomes(executor, job("still usable"))["still usable"].status == "ok"


PARENT = """
import sys
from harness.executors import Job
from harness.executors.local import Local
local = Local("hostile_jobs:run", workers=2, on_progress=lambda key, event: print(*event.get("pids", []), flush=True))
local.submit(Job("hang", {"do": "hang_ignoring_sigterm"}))
local.submit(Job("idle", {"do": "leave_a_child"}))
list(local.as_completed())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_orphan_outlives_a_killed_parent(how):
    path = os.pathsep.join([HERE, *(entry or str(Path.cwd()) for entry in sys.path)])
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        pids += [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
        assert len(pids) >= 3
        parent.send_signal(how)
        parent.wait()
        assert all_gone_within(5, pids)


def test_close_leaves_no_process_and_no_descriptor():
    before = set(psutil.Process().children(recursive=True)), len(list(Path("/dev/fd").iterdir()))
    with workers(workers=2) as executor:
        outcomes(executor, job("a", "sleep", seconds=0.2), job("b", "sleep", seconds=0.2))
        executor.submit(job("never"))
    assert (set(psutil.Process().children(recursive=True)), len(list(Path("/dev/fd").iterdir()))) == before
