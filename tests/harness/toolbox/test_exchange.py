"""The exchange: batches in the order of the items, errors where they belong, no hang."""

import threading
import time

import pytest

from harness.toolbox import Exchange


class Recorder:
    """A handler that doubles and keeps its batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, payloads):
        assert threading.current_thread() is threading.main_thread()
        self.batches.append(payloads)
        return [2 * p for p in payloads]


def test_requests_meet_in_the_order_of_the_items():
    double, negate = Recorder(), []
    exchange = Exchange({"double": double, "negate": lambda p: negate.append(p) or [-x for x in p]})

    def work(item):
        time.sleep(0.002 * (item % 3))  # timing must not matter
        first = exchange.submit("double", item)
        if item % 2:
            return first
        return exchange.submit("negate", first)

    results = exchange.map(work, range(6), width=4)
    assert [r.value for r in results] == [0, 2, -4, 6, -8, 10]
    assert all(r.error is None for r in results)
    again = Recorder()
    exchange.handlers = {**exchange.handlers, "double": again}
    exchange.map(work, range(6), width=4)
    assert again.batches == double.batches
    assert double.batches[0] == [0, 1, 2, 3]


def test_width_bounds_how_many_run_at_once():
    double = Recorder()
    exchange = Exchange({"double": double})
    assert [r.value for r in exchange.map(lambda i: exchange.submit("double", i), range(10), width=3)] == list(
        range(0, 20, 2)
    )
    assert [len(b) for b in double.batches] == [3, 3, 3, 1]
    with pytest.raises(ValueError, match="width"):
        exchange.map(lambda i: i, [1], width=0)


def test_questions_of_different_lengths_refill_the_batch():
    double = Recorder()
    exchange = Exchange({"double": double})

    def work(item):
        for _ in range(item):
            exchange.submit("double", item)
        return item

    assert [r.value for r in exchange.map(work, [1, 4, 0, 2, 1], width=2)] == [1, 4, 0, 2, 1]
    assert double.batches == [[1, 4], [4, 2], [4, 2], [4, 1]]


def test_an_error_belongs_to_its_item():
    def broken(payloads):
        raise OSError("handler")  # noqa: EM101

    exchange = Exchange({"double": Recorder(), "broken": broken, "short": lambda p: []})

    def work(item):
        if item == 0:
            raise ValueError("mine")  # noqa: EM101
        if item == 1:
            raise SystemExit(3)
        if item == 2:
            return exchange.submit("broken", item)
        if item == 3:
            return exchange.submit("unknown", item)
        if item == 4:
            return exchange.submit("short", item)
        if item == 5:
            try:
                exchange.submit("broken", item)
            except OSError:
                return "rescued"
        return exchange.submit("double", item)

    results = exchange.map(work, range(7))
    assert [type(r.error) for r in results[:5]] == [ValueError, SystemExit, OSError, LookupError, RuntimeError]
    assert [r.value for r in results[5:]] == ["rescued", 12]
    with pytest.raises(ValueError, match="mine"):
        results[0].unwrap()


def test_only_one_thread_runs_at_a_time():
    running, most = 0, 0
    exchange = Exchange({"double": Recorder()})

    def work(item):
        nonlocal running, most
        for _ in range(3):
            running += 1
            most = max(most, running)
            time.sleep(0.001)
            running -= 1
            exchange.submit("double", item)

    assert all(r.error is None for r in exchange.map(work, range(8)))
    assert most == 1


def test_an_interrupt_leaves_at_once_and_unwinds_the_threads():
    unwound = []

    def interrupt(payloads):
        raise KeyboardInterrupt

    exchange = Exchange({"ask": interrupt})

    def work(item):
        try:
            exchange.submit("ask", item)
        except Exception:  # noqa: BLE001 - a method that swallows everything must not hold its thread
            unwound.append("swallowed")
        finally:
            unwound.append(item)

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        exchange.map(work, range(5))
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(unwound) == [0, 1, 2, 3, 4]
    assert threading.active_count() == before


def test_outside_of_map_a_request_is_handled_alone():
    exchange = Exchange({"double": Recorder(), "outer": lambda p: [exchange.submit("double", x) + 1 for x in p]})
    assert exchange.submit("double", 4) == 8
    assert [r.value for r in exchange.map(lambda i: exchange.submit("outer", i), [1, 2])] == [3, 5]
    with pytest.raises(LookupError, match="nothing"):
        exchange.submit("nothing", 1)


def test_no_items():
    assert Exchange({}).map(lambda i: i, []) == []
