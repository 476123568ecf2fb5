"""The order of jobs, without any process."""

import pytest

from harness.executors import Job
from harness.executors.schedule import Schedule


def schedule_of(*jobs):
    schedule = Schedule()
    for job in jobs:
        schedule.add(job)
    return schedule


def keys(schedule, **options):
    """Keys of all that may start now, side by side."""
    return list(iter(lambda: getattr(schedule.next(**options), "key", None), None))


def test_submission_order():
    assert keys(schedule_of(*(Job(key, {}) for key in "cab"))) == ["c", "a", "b"]


def test_nothing_starts_beside_an_exclusive_job():
    schedule = schedule_of(Job("e", {}, exclusive=True), Job("f", {}, exclusive=True))
    assert keys(schedule) == ["e"]
    schedule.add(Job("late", {}))
    assert keys(schedule) == []
    schedule.finish("e", "ok")
    assert keys(schedule) == ["late"]
    schedule.finish("late", "failed")
    assert keys(schedule, exclusive=False) == []
    assert keys(schedule) == ["f"]


def test_a_job_waits_for_success_and_nothing_less():
    schedule = schedule_of(Job("b", {}, after=("a",)), Job("a", {}))
    assert keys(schedule) == ["a"]
    schedule.finish("a", "diverged")
    assert keys(schedule) == []
    assert [(job.key, reason) for job, reason in schedule.hopeless()] == [("b", "comes after 'a', which is diverged")]
    assert not schedule.unfinished


def test_a_job_may_be_submitted_before_what_it_comes_after():
    schedule = schedule_of(Job("b", {}, after=("a",)), Job("busy", {}))
    assert keys(schedule) == ["busy"]
    assert list(schedule.hopeless()) == []  # somebody may still submit it
    schedule.add(Job("a", {}))
    schedule.finish("busy", "ok")
    assert list(schedule.hopeless()) == []
    assert keys(schedule) == ["a"]


@pytest.mark.parametrize("after", [("b",), ("a",), ("b", "a")])
def test_circles_end(after):
    schedule = schedule_of(Job("a", {}, after=after), Job("b", {}, after=("a",)))
    assert [job.key for job, _ in schedule.hopeless()] == ["a", "b"]


def test_another_group_is_preferred_to_one_that_runs():
    jobs = [Job("a1", {}, group="a"), Job("a2", {}, group="a"), Job("b", {}, group="b"), Job("x", {}), Job("y", {})]
    assert keys(schedule_of(*jobs)) == ["a1", "b", "x", "y", "a2"]


def test_dropped_jobs_are_cancelled():
    schedule = schedule_of(Job("a", {}), Job("b", {}))
    schedule.next()
    assert [job.key for job in schedule.drop()] == ["b"]
    assert schedule.unfinished
    schedule.finish("a", "cancelled")
    assert not schedule.unfinished
