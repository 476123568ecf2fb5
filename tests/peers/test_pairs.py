import pytest

from benchmarks.pairs import OURS, Figures, Ratio, clock_of, interleave


class Clock:
    """Stands still but for what the works take."""

    now = 0.0

    def __call__(self):
        return self.now


def side(clock, name, calls, seconds, units=1):
    """Making ready takes time as well, which is nobody's."""
    left = list(seconds)

    def ready():
        calls.append(f"{name} ready")
        clock.now += 1000

        def work():
            calls.append(name)
            clock.now += left.pop(0)
            return units

        return work

    return ready


def test_sides_take_turns_and_each_is_made_ready_just_before():
    clock, calls = Clock(), []
    interleave({n: side(clock, n, calls, [1] * 3) for n in ("A", "B")}, 2, clock)
    assert calls == ["A ready", "A", "B ready", "B"] * 3


def test_the_first_round_and_making_ready_are_not_counted_and_seconds_are_a_unit():
    clock, calls = Clock(), []
    sides = {OURS: side(clock, "a", calls, [99, 2, 4]), "peer": side(clock, "b", calls, [99, 6, 20], units=2)}
    assert interleave(sides, 2, clock) == {OURS: [2, 4], "peer": [3, 10]}


def test_no_pair_is_an_error():
    with pytest.raises(ValueError, match="pairs must be at least 1, not 0"):
        interleave({}, 0, Clock())


def test_a_ratio_is_the_median_of_pairs_and_not_the_ratio_of_medians():
    ratio = Ratio.of([4, 10, 9], [2, 1, 3])  # 2, 10 and 3; of the medians it would be 4.5
    assert (ratio.median, ratio.low, ratio.high) == (3, 2, 10)
    assert str(ratio) == "3.00 (2.00 to 10.00)"


def test_another_device_is_waited_for_on_both_sides():
    class Device:
        name = "cuda"
        waits = 0

        def synchronize(self):
            self.waits += 1

    device = Device()
    clock = clock_of(device)
    assert clock() <= clock()
    assert device.waits == 2


def figures(ours, peer, **goal):
    return Figures.of("run", {OURS: ours, "peer": peer}, "peer", **goal)


@pytest.mark.parametrize(("goal", "met"), [(2.0, True), (2.1, False)])
def test_a_goal_for_the_ratio(goal, met):
    assert figures([1, 2, 3], [2, 4, 6], at_least=goal).met is met


@pytest.mark.parametrize(("goal", "met"), [(0.25, True), (0.2, False)])
def test_a_goal_for_the_overhead(goal, met):
    found = figures([5, 5, 5], [4, 4, 5], most_overhead=goal)
    assert (found.overhead.median, found.overhead.low, found.overhead.high) == pytest.approx((0.25, 0, 0.25))
    assert found.met is met


@pytest.mark.parametrize(("goal", "met"), [(0.3, True), (0.2, False)])
def test_a_goal_for_seconds_needs_no_peer(goal, met):
    assert Figures("call", 0.25, most_seconds=goal).met is met


def test_without_a_goal_none_is_met_or_missed():
    assert figures([1], [2]).met is None
    assert Figures("call", 1.0).met is None


def test_json_has_every_figure():
    found = figures([2, 2], [3, 5], limit_share=0.5, padding=0.25, zero_advantage=0.1, at_least=1.5, notes=("so",))
    assert found.to_json() == {
        "ratio": 2.0,
        "low": 1.5,
        "high": 2.5,
        "ours": 2,
        "peer": 4,
        "unit": "run",
        "limit_share": 0.5,
        "padding": 0.25,
        "zero_advantage": 0.1,
        "overhead": None,
        "goal": {"ratio": 1.5, "overhead": None, "seconds": None},
        "met": True,
        "notes": ["so"],
    }


def test_json_of_what_has_no_peer_says_null():
    said = Figures("call", 0.25, most_seconds=0.3).to_json()
    assert [said[name] for name in ("ratio", "low", "high", "peer", "overhead")] == [None] * 5
