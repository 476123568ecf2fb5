"""Comparisons, of folders written by hand: who is compared, on what, and what a limit says of it."""

import json
import subprocess
import sys

import pytest

from harness.builtin.metrics import harness_metrics
from harness.comparison import compare_folders, compare_pipelines, described, parse_limits, shortfalls
from harness.config import ConfigError
from harness.statistics import holm, mcnemar_exact, paired
from harness.store import StoreError

METRICS = harness_metrics()


def test_two_pipelines_by_hand(world):
    world.answers("greedy", 40, tokens=20)
    world.answers("sft", [30 <= number < 90 for number in range(100)], tokens=30, train_s=2.0)
    world.timing("greedy", [0.1, 0.3, 0.2])
    world.timing("sft", [0.5])
    found = compare_pipelines(world.register(), "greedy", "sft", METRICS)
    assert (found.before, found.after, found.delta) == (0.4, 0.6, pytest.approx(0.2))
    assert found.fixed == tuple(f"p{number:05d}" for number in range(40, 90))
    assert found.broken == tuple(f"p{number:05d}" for number in range(30))
    assert found.p == mcnemar_exact(50, 30)
    assert found.low < 0.2 < found.high
    assert found.costs == {"p50": pytest.approx(2.5), "tokens": pytest.approx(1.5), "train": None}
    assert (found.problems, found.left_out, found.seeds) == (100, 0, (0,))
    assert described(found)["accuracy %"] == "40.0 to 60.0"
    back = compare_pipelines(world.folder, "sft", "greedy", METRICS)
    assert (back.delta, back.fixed, back.broken) == (-found.delta, found.broken, found.fixed)


def test_folders_meet_row_by_row_and_what_one_side_has_is_named(make_world):
    first, second = make_world("first"), make_world("second")
    for world, right in ((first, {"a": 40, "b": 50, "old": 3}), (second, {"a": 47, "b": 90, "new": 5})):
        for pipeline, count in right.items():
            world.answers(pipeline, count)
    found, notes = compare_folders(first.register(), second.register(), METRICS)
    assert [(each.name, each.before, each.after) for each in found] == [("b", 0.5, 0.9), ("a", 0.4, 0.47)]
    assert [each.p for each in found] == holm([mcnemar_exact(40, 0), mcnemar_exact(7, 0)])
    assert notes == [f"new: only in {second.folder}", f"old: only in {first.folder}"]


def test_only_problems_and_seeds_that_both_answered_count(make_world):
    first, second = make_world("first"), make_world("second")
    for seed in range(3):
        first.answers("a", 40, seed=seed)
    for seed in range(1, 4):
        second.answers("a", [True] * 60, ids=[f"p{number:05d}" for number in range(20, 80)], seed=seed)
    [found], notes = compare_folders(first.register(), second.register(), METRICS)
    assert (found.problems, found.left_out, found.seeds, notes) == (60, 40, (1, 2), [])
    assert (found.before, found.after) == (pytest.approx(1 / 3), 1.0)
    expected = paired([[True, True]] * 60, [[number < 20] * 2 for number in range(60)])
    assert (found.delta, found.p) == (expected.delta, expected.p)
    assert described(found)["problems"] == "60 of 100 x 2 seeds"


def test_other_settings_of_a_method_are_another_row(make_world):
    first, second = make_world("first"), make_world("second")
    first.answers("a", 40, config={"lr": 1})
    second.answers("a", 50, config={"lr": 2})
    with pytest.raises(ConfigError, match=r"no row in common: a: only in .*first; a: only in .*second"):
        compare_folders(first.register(), second.register(), METRICS)


def test_a_row_without_common_problems_is_left_out_and_said(make_world):
    first, second = make_world("first"), make_world("second")
    for world in (first, second):
        world.answers("a", 40)
        world.answers("b", 1, 2, ids=[f"{world.folder.name}-{number}" for number in range(2)])
    found, notes = compare_folders(first.register(), second.register(), METRICS)
    assert [each.name for each in found] == ["a"]
    assert notes == ["b: no problem and seed that both answered"]


def test_what_cannot_be_compared_is_said_in_a_line(world, make_world, tmp_path):
    with pytest.raises(ConfigError, match="is no results folder"):
        compare_folders(tmp_path, tmp_path, METRICS)
    world.answers("cot-sft", 40)
    world.answers("cot-sft + vote", 40, seed=1)
    with pytest.raises(ConfigError, match="no answers of 'cot-stf'; most like it: 'cot-sft'"):
        compare_pipelines(world.register(), "cot-stf", "cot-sft", METRICS)
    with pytest.raises(ConfigError, match="no problem and seed that both answered"):
        compare_pipelines(world.folder, "cot-sft", "cot-sft + vote", METRICS)
    mixed = make_world("mixed")
    mixed.answers("a", 40)
    mixed.answers("a", 40, model="other")
    with pytest.raises(ConfigError, match=r"answers of 2 models \(m, other\): compare folders of one model"):
        compare_folders(world.folder, mixed.register(), METRICS)
    next(path for path in world.folder.rglob("*.json") if path.name != "board.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreError):
        compare_folders(world.folder, world.folder, METRICS)


def test_limits_are_kept_or_not_by_the_estimate(world):
    world.answers("greedy", 40, tokens=20)
    world.answers("sft", 38, tokens=25)
    found = compare_pipelines(world.register(), "greedy", "sft", METRICS)
    kept = {
        "accuracy:-0.03": 0,
        "accuracy:-0.01": 1,
        "tokens:1.3": 0,
        "tokens:1.2": 1,
        "p50:9": 1,
        "accuracy:0,tokens:1": 2,
    }
    assert {limit: len(shortfalls([found], parse_limits(limit))) for limit in kept} == kept
    [line] = shortfalls([found], parse_limits("accuracy:-0.01"))
    assert line == "sft beside greedy: accuracy changed by -0.020, below -0.01"
    [line] = shortfalls([found], parse_limits("p50:9"))
    assert line == "sft beside greedy: p50 was not measured on both sides"


@pytest.mark.parametrize(
    "text", ["accuracy", "accuracy:", "accuracy:x", "p50:nan", "p50:inf", "speed:2", "", "p50:1.2,"]
)
def test_limits_that_make_no_sense_are_refused(text):
    with pytest.raises(ConfigError, match="--fail-on"):
        parse_limits(text)


def harness(*words):
    command = [sys.executable, "-m", "harness.cli", "compare", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command(make_world, tmp_path):
    first, second = make_world("results/first"), make_world("second")
    for world, right in ((first, 40), (second, 30)):
        world.answers("greedy", right)
        world.answers("sft", 60)
        world.register()
    done = harness(first.folder, second.folder, "--fail-on", "accuracy:-0.02", "--json")
    assert done.returncode == 1
    assert done.stderr == "harness: greedy: accuracy changed by -0.100, below -0.02\n"
    told = json.loads(done.stdout)
    assert [row["delta"] for row in told["comparisons"]] == [pytest.approx(-0.1), 0.0]
    assert len(told["missed"]) == 1
    done = harness("greedy", "sft", "--out", tmp_path / "results")
    assert done.returncode == 0
    assert "+20.0" in done.stdout
    assert f"fixed: {', '.join(f'p{number:05d}' for number in range(40, 60))}\nbroken: none" in done.stdout
    done = harness(first.folder, "sft")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "give two results folders, or two pipelines" in done.stderr
