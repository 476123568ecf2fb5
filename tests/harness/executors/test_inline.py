"""Inline gives what Local gives, without the guard."""

import sys
from pathlib import Path

import pytest

from harness.executors import Job
from harness.executors.inline import Inline
from harness.executors.local import Local

HERE = str(Path(__file__).parent)


@pytest.fixture
def inline(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    events = []
    executor = Inline("hostile_jobs:run", on_progress=lambda key, event: events.append((key, event)))
    executor.events = events
    yield executor
    executor.close()
    sys.modules.pop("hostile_jobs", None)


def run_all(executor, **jobs):
    for key, spec in jobs.items():
        executor.submit(Job(key, spec, after=tuple(spec.get("after", ()))))
    return {outcome.key: outcome for outcome in executor.as_completed()}


JOBS = {
    "skipped": {"do": "ok", "after": ["raises"]},
    "ok": {"do": "ok", "value": 1},
    "raises": {"do": "raise", "kind": "value"},
    "diverges": {"do": "raise", "kind": "diverged"},
    "leaves": {"do": "exit"},
    "object": {"do": "not_json", "kind": "set"},
    "nothing": {"do": "not_a_dict"},
}


def test_outcomes_are_those_of_workers(inline):
    found = run_all(inline, **JOBS)
    local = Local("hostile_jobs:run", workers=1, env={"PYTHONPATH": HERE})
    try:
        expected = run_all(local, **JOBS)
    finally:
        local.close()
    assert [(o.key, o.status, o.reason) for o in found.values()] == [
        (o.key, o.status, o.reason) for o in expected.values()
    ]
    assert inline.events == [("ok", {"step": 1})]
    assert "in job_raise" in found["raises"].log


def test_draws_are_those_of_workers(inline):
    found = run_all(inline, a={"do": "look"}, b={"do": "look"})
    local = Local("hostile_jobs:run", workers=1, env={"PYTHONPATH": HERE})
    try:
        expected = run_all(local, a={"do": "look"})
    finally:
        local.close()
    draws = [o.result["draws"] for o in (*found.values(), *expected.values())]
    assert draws[0] == draws[1] == draws[2]


def test_an_interrupt_is_passed_on_and_the_rest_is_cancelled(inline):
    inline.submit(Job("a", {"do": "interrupt_itself"}))
    inline.submit(Job("b", {"do": "ok"}))
    with pytest.raises(KeyboardInterrupt):
        list(inline.as_completed())
    assert [(o.key, o.status) for o in inline.as_completed()] == [("a", "cancelled"), ("b", "cancelled")]


def test_cancel_between_outcomes(inline):
    for key in "abc":
        inline.submit(Job(key, {"do": "ok"}))
    found = []
    for outcome in inline.as_completed():
        found.append((outcome.key, outcome.status))
        if outcome.key == "a":
            inline.cancel()
    assert found == [("a", "ok"), ("b", "cancelled"), ("c", "cancelled")]
