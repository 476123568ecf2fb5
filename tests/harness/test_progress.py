"""What a run shows: bars with the accuracy so far on a terminal, plain lines elsewhere."""

import io

import pytest
from rich.console import Console

from harness.executors import Outcome
from harness.plan import PlannedJob
from harness.progress import LiveReporter, PlainReporter, make_reporter

JOB = PlannedJob("answers", "k1", {"row": {"pipeline": "cot-sft > dpo"}, "seed": 3})
STAGE = PlannedJob("stage", "k2", {"method": {"name": "dpo"}, "seed": 3})


def console(*, terminal):
    return Console(file=io.StringIO(), width=100, force_terminal=terminal)


def outcome(status="ok", result=None, reason=""):
    return Outcome("k1", status, result, reason, 1.25, "")


def test_a_terminal_gets_bars_and_a_file_gets_lines():
    assert isinstance(make_reporter(console(terminal=True)), LiveReporter)
    assert isinstance(make_reporter(console(terminal=False)), PlainReporter)


def test_the_accuracy_so_far_stands_in_the_bar_of_its_job():
    with LiveReporter(console(terminal=True)) as reporter:
        reporter.begin([JOB, STAGE], kept=1)
        reporter.event("k1", {"progress": 0.25, "accuracy": 0.5})
        reporter.event("k2", {"progress": 0.5})
        reporter.event("unknown", {"progress": 0.5})
        overall, answering, training = reporter.progress.tasks
        assert (overall.description, overall.completed, overall.total) == ("all jobs", 0, 2)
        assert answering.description.strip() == "answer cot-sft > dpo (seed 3): accuracy 0.500 so far"
        assert answering.completed == 0.25
        assert training.description.strip() == "train dpo (seed 3)"
        reporter.end(JOB, outcome(result={"accuracy": 0.625}))
        assert [task.description.strip() for task in reporter.progress.tasks] == ["all jobs", "train dpo (seed 3)"]
        assert reporter.progress.tasks[0].completed == 1
    assert "accuracy 0.625" in reporter.console.file.getvalue()


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (outcome(result={"accuracy": 0.5}), "accuracy 0.500"),
        (outcome(result={"p50_s": 0.0123}), "p50 12.3 ms"),
        (outcome(result={"tokens": 12345}), "12,345 tokens"),
        (outcome("crashed", reason="exit code 3"), "crashed: exit code 3"),
    ],
)
def test_each_job_that_ended_is_one_plain_line(ended, said):
    reporter = PlainReporter(console(terminal=False))
    with reporter:
        reporter.begin([JOB], kept=0)
        reporter.event("k1", {"progress": 0.5, "accuracy": 0.1})
        reporter.end(JOB, ended)
    assert reporter.console.file.getvalue().splitlines() == [
        "1 jobs to do, 0 results already in the store",
        f"[1/1] answer cot-sft > dpo (seed 3): {said} (1.2 s)",
    ]
