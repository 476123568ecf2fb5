"""Growth: powers from points, and the whole report in little."""

import json
import time

import pytest
from click.testing import CliRunner

from benchmarks import growth
from benchmarks.growth import Axis, Point, measure, table


@pytest.fixture
def clock(monkeypatch):
    """A clock of our own: `clock(seconds)` is how long something took."""
    now = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_the_power_of_growth_between_sizes(clock):
    axis = Axis("squares", (1, 10, 100), lambda size: lambda: clock(size**2), flops=lambda size: size**3)
    points = measure(axis, rounds=2)
    assert points[0] == Point(1, 1.0, None)
    for point in points[1:]:
        assert (point.seconds, point.power, point.flops_power) == pytest.approx((point.size**2, 2.0, 3.0))


def test_the_quickest_round_counts_and_the_first_is_not_among_them(clock):
    took = iter([9.0, 3.0, 30.0, 2.0, 40.0])  # a warm-up of the smallest, then two rounds of both
    axis = Axis("lucky", (1, 10), lambda size: lambda: clock(next(took)))
    assert [point.seconds for point in measure(axis, rounds=2)] == [2.0, 30.0]


def test_the_table_says_what_one_of_them_costs():
    last = table({"samples": [Point(1, 0.5, None), Point(100, 2.0, 0.301, 1.5)]}).splitlines()[-1]
    assert [cell.strip() for cell in last.strip("|").split("|")] == ["samples", "100", "2", "20", "0.30", "1.50"]


def test_in_haste_every_line_is_measured_and_drawn(tmp_path):
    picture = tmp_path / "growth.png"
    done = CliRunner().invoke(growth.main, ["--quick", "--json", "--plot", str(picture)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found) == 6
    assert all(len(points) == 2 and points[1]["power"] is not None for points in found.values())
    assert picture.read_bytes().startswith(b"\x89PNG")
