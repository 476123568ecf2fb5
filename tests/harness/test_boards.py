"""Boards from records that were written by hand: who is ranked, against whom, at what cost, in which bytes."""

from __future__ import annotations

import contextlib
import csv
import gc
import io
import json
import math
import os
import random
import subprocess
import sys
import time

import pytest
from rich.console import Console

from harness.boards import _without, make_boards, render, write_boards
from harness.builtin.metrics import harness_metrics
from harness.contracts import Metric
from harness.statistics import holm, mcnemar_exact, wilson
from harness.store import StoreError
from harness.tables import markdown

METRICS = harness_metrics()
ACCURACY_KEYS = [
    "rank_low",
    "rank_high",
    "pipeline",
    "method",
    "family",
    "model",
    "dataset",
    "seeds",
    "n",
    "accuracy",
    "ci_low",
    "ci_high",
    "start",
    "delta",
    "delta_low",
    "delta_high",
    "p_adjusted",
    "sampled_accuracy",
    "parse_failures",
    "truncated",
    "status",
    "reason",
]
LATENCY_KEYS = [
    "pipeline",
    "p50_s",
    "p95_s",
    "ratio_to_greedy",
    "throughput_qps",
    "tokens_per_question",
    "train_s",
    "train_tokens",
    "flops",
    "train_flops",
    "peak_memory_bytes",
    "break_even_questions",
    "status",
]


# -- accuracy


def test_a_row_by_hand(world):
    world.answers("greedy", 40)
    world.answers("sft", 60, family="fine-tuning", config={"lr": 0.1})
    rows = world.rows()
    row = rows["sft"]
    assert set(ACCURACY_KEYS) <= set(row)
    assert (row["accuracy"], row["n"], row["seeds"], row["status"], row["reason"]) == (0.6, 100, [0], "ok", None)
    assert (row["ci_low"], row["ci_high"]) == wilson(60, 100)
    assert (row["start"], row["delta"]) == ("greedy", pytest.approx(0.2))
    assert row["delta_low"] < 0.2 < row["delta_high"]
    assert row["p_adjusted"] == mcnemar_exact(20, 0)
    assert (row["rank_low"], row["rank_high"]) == (1, 1)
    assert (row["parse_failures"], row["truncated"], row["sampled_accuracy"]) == (0.0, 0.0, None)
    assert (row["config"], row["family"], row["control"], row["upper_bound"]) == (
        {"lr": 0.1},
        "fine-tuning",
        False,
        False,
    )
    start = rows["greedy"]
    assert (start["rank_low"], start["rank_high"], start["delta"], start["p_adjusted"]) == (2, 2, None, None)
    assert [row["pipeline"] for row in world.boards()["accuracy"]] == ["sft", "greedy"]


def test_the_collector_works_again_after_boards_and_after_an_error(world):
    world.answers("m", 1)
    for broken in (False, True):
        if broken:
            next(world.folder.rglob("*.json")).write_text("{", encoding="utf-8")
        with contextlib.suppress(StoreError):
            world.boards()
        assert gc.isenabled()


def test_rows_that_overlap_share_ranks(world):
    for pipeline, right in [("greedy", 10), ("a", 60), ("b", 62), ("c", 95)]:
        world.answers(pipeline, right)
    ranks = {name: (row["rank_low"], row["rank_high"]) for name, row in world.rows().items()}
    assert ranks == {"c": (1, 1), "b": (2, 3), "a": (2, 3), "greedy": (4, 4)}


def test_seeds_are_one_row_and_pair_seed_by_seed(world):
    for seed in range(3):
        world.answers("greedy", 40, seed=seed)
        world.answers("sft", 60 + seed, seed=seed)
    row = world.rows()["sft"]
    assert (row["seeds"], row["n"], row["status"]) == ([0, 1, 2], 100, "ok")
    assert row["accuracy"] == pytest.approx(0.61)
    assert row["delta"] == pytest.approx(0.21)
    assert row["p_adjusted"] == pytest.approx(1 / 10_001)


def test_answers_are_paired_by_problem_whatever_their_order(world):
    rng = random.Random(1)
    marks = [rng.random() < 0.5 for _ in range(80)]
    names = [f"p{i:05d}" for i in range(80)]
    order = rng.sample(range(80), 80)
    world.answers("greedy", marks)
    world.answers("same", [marks[i] for i in order], ids=[names[i] for i in order])
    row = world.rows()["same"]
    assert (row["delta"], row["delta_low"], row["delta_high"], row["p_adjusted"]) == (0, 0, 0, 1.0)


def test_p_values_are_adjusted_over_the_board_without_upper_bounds(world):
    world.answers("greedy", 40)
    plain = {}
    for pipeline, right in [("a", 46), ("b", 50), ("c", 41)]:
        world.answers(pipeline, right)
        plain[pipeline] = mcnemar_exact(right - 40, 0)
    world.answers("oracle", 99, upper_bound=True)
    rows = world.rows()
    assert [rows[name]["p_adjusted"] for name in "abc"] == holm([plain[name] for name in "abc"])
    assert rows["oracle"]["p_adjusted"] is None
    assert rows["oracle"]["delta"] == pytest.approx(0.59)


def test_an_upper_bound_is_shown_first_and_not_ranked(world):
    world.answers("greedy", 40)
    world.answers("oracle", 99, upper_bound=True)
    world.answers("random-score", 45, control=True)
    [first, *others] = world.boards()["accuracy"]
    assert (first["pipeline"], first["rank_low"], first["rank_high"]) == ("oracle", None, None)
    assert [(row["rank_low"], row["rank_high"]) for row in others] == [(1, 2), (1, 2)]


def test_failed_rows_are_last_with_their_reason(world):
    world.answers("greedy", 0)
    world.failure("bad", "crashed", "first try", key="aa")
    world.failure("bad", "timeout", "second\ntry", key="aa")
    world.failure("grpo", "diverged", "loss is nan after 7 tokens")
    rows = world.boards()["accuracy"]
    assert [row["pipeline"] for row in rows] == ["greedy", "bad", "grpo"]
    assert [(row["status"], row["reason"]) for row in rows[1:]] == [
        ("timeout", "second try"),
        ("diverged", "loss is nan after 7 tokens"),
    ]
    assert all(row[key] is None for row in rows[1:] for key in ("rank_low", "rank_high", "accuracy", "delta"))
    assert all(set(ACCURACY_KEYS) <= set(row) for row in rows)


def test_a_failure_that_was_made_good_is_forgotten(world):
    world.answers("greedy", 40)
    key = world.answers("sft", 50)
    world.failure("sft", key=key)
    world.failure("sft", "crashed", "an older version of the method")  # the same cell under an older key
    row = world.rows()["sft"]
    assert (row["status"], row["reason"], row["rank_low"]) == ("ok", None, 1)
    key = world.failure("dpo", "timeout", "too slow", kind="stage")
    assert world.rows()["dpo"]["status"] == "timeout"
    world.store.publish_stage(key, lambda folder: None, {})  # trained at last, not answered yet
    assert "dpo" not in world.rows()


def test_a_failed_stage_is_a_failed_row_unless_the_cell_speaks(world):
    world.answers("greedy", 40)
    world.failure("sft", "oom", "no memory", kind="stage")
    world.answers("dpo", 45)
    world.failure("dpo", "oom", "no memory", kind="stage")
    rows = world.rows()
    assert (rows["sft"]["status"], rows["sft"]["reason"]) == ("oom", "no memory")
    assert rows["dpo"]["status"] == "ok"


def test_a_lost_seed_is_partial_and_not_ranked(world):
    for seed in range(3):
        world.answers("greedy", 40, seed=seed)
    world.answers("ppo", 90, seed=0)
    world.answers("ppo", 90, seed=1)
    world.failure("ppo", "diverged", "nan", seed=2)
    world.answers("late", 50, seed=0)
    rows = world.rows()
    assert rows["ppo"]["status"] == "partial (2 of 3 seeds)"
    assert rows["ppo"]["reason"] == "seed 2 diverged: nan"
    assert (rows["ppo"]["rank_low"], rows["ppo"]["seeds"]) == (None, [0, 1])
    assert rows["ppo"]["delta"] == pytest.approx(0.5)
    assert rows["late"]["status"] == "partial (1 of 3 seeds)"
    assert rows["late"]["rank_low"] == 1  # not run yet is not lost
    assert rows["greedy"]["rank_high"] == 2


def test_other_problems_are_shown_and_not_ranked(world):
    world.answers("greedy", 40)
    world.answers("sft", 50)
    world.answers("smoke", 9, n=10, limit=10)
    rows = world.rows()
    assert rows["smoke"]["status"] == "other problems"
    assert (rows["smoke"]["rank_low"], rows["smoke"]["delta"], rows["smoke"]["accuracy"]) == (None, None, 0.9)
    assert rows["sft"]["rank_high"] == 2


def test_seeds_on_different_problems_are_never_averaged(world):
    world.answers("greedy", 40)
    world.answers("sft", 50, seed=0)
    world.answers("sft", 10, n=10, seed=1)
    rows = [row for row in world.boards()["accuracy"] if row["pipeline"] == "sft"]
    assert [(row["accuracy"], row["n"], row["seeds"]) for row in rows] == [(1.0, 10, [1]), (0.5, 100, [0])]


def test_two_records_of_one_seed_are_two_rows(world):
    world.answers("sft", 50)
    world.answers("sft", 60)
    rows = world.boards()["accuracy"]
    assert [row["accuracy"] for row in rows] == [0.6, 0.5]
    assert all("several records" in row["reason"] for row in rows)


def test_models_and_datasets_are_ranked_apart(world):
    for model, dataset in [("m", "d"), ("m", "e"), ("n", "d")]:
        world.answers("greedy", 40, model=model, dataset=dataset)
        world.answers("sft", 90, model=model, dataset=dataset)
    rows = world.boards()["accuracy"]
    assert [(row["model"], row["dataset"], row["pipeline"], row["rank_low"]) for row in rows] == [
        (model, dataset, pipeline, rank)
        for model, dataset in [("m", "d"), ("m", "e"), ("n", "d")]
        for pipeline, rank in [("sft", 1), ("greedy", 2)]
    ]


def test_configs_are_rows_of_their_own(world):
    world.answers("greedy", 40)
    world.answers("best-of-n", 50, config={"samples": 4})
    world.answers("best-of-n", 55, config={"samples": 8})
    found = [(row["config"], row["accuracy"]) for row in world.boards()["accuracy"][:2]]
    assert found == [({"samples": 8}, 0.55), ({"samples": 4}, 0.5)]


@pytest.mark.parametrize(("ids", "reason"), [([], "no answers"), (["a", "a"], "two answers to one problem")])
def test_empty_and_doubled_answers_are_failures(world, ids, reason):
    world.answers("greedy", [True] * len(ids), ids=ids)
    row = world.rows()["greedy"]
    assert (row["status"], row["reason"], row["accuracy"]) == ("failed", reason, None)


def test_a_record_without_answers_is_an_error_that_names_it(world):
    world.store.publish("answers", "s", "ab", {"spec": world.spec("greedy"), "status": "ok"})
    with pytest.raises(StoreError, match=r"record ab \(answers\)"):
        world.boards()


def test_metrics_of_plugins_add_columns_and_cannot_break_the_board(world):
    def fail(record):
        msg = "no such fact"
        raise KeyError(msg)

    mine = Metric("mine", "", lambda record: {"length": 3.5, "hidden": 1, "bad": math.nan}, columns=("length", "bad"))
    broken = Metric("broken", "", fail, columns=("nothing",))
    greedy = Metric("greedy", "", lambda record: {"accuracy": 1.0, "status": 5}, columns=("accuracy", "status"))
    world.answers("greedy", 40)
    boards = make_boards(world.folder, [*METRICS, mine, broken, greedy])
    [row] = boards["accuracy"]
    assert (row["length"], row["bad"], row["nothing"], "hidden" in row) == (3.5, None, None, False)
    assert row["reason"] == "metric broken: KeyError: 'no such fact'"
    assert (row["accuracy"], row["status"]) == (0.4, "ok")


def test_no_records_are_empty_boards(tmp_path):
    boards = make_boards(tmp_path / "absent", METRICS)
    assert boards == {"accuracy": [], "latency": [], "verifiers": [], "curves": []}
    assert len(write_boards(tmp_path / "out", boards)) == 12
    assert render("accuracy", []).row_count == 0


# -- latency


def test_a_latency_row_by_hand(world):
    world.answers("greedy", 40, tokens=20)
    world.answers("sft", 60, train_s=30.0, tokens=10)
    world.timing("sft", [0.1, 0.2, 0.3], seed=0, greedy=[0.1])
    world.timing("sft", [0.3, 0.4, 0.5], seed=1, greedy=[0.1, 0.2, 0.3])
    row = world.rows("latency")["sft"]
    assert set(LATENCY_KEYS) <= set(row)
    assert row["p50_s"] == pytest.approx(0.3)
    assert row["p95_s"] == pytest.approx(0.475)
    assert row["ratio_to_greedy"] == pytest.approx((2 + 2) / 2)
    assert row["throughput_qps"] == 25
    assert (row["tokens_per_question"], row["train_s"], row["train_tokens"]) == (10, 30, 1000)
    assert (row["flops"], row["train_flops"], row["peak_memory_bytes"]) == (1e6, 5e9, 2**21)
    assert (row["status"], row["break_even_questions"]) == ("ok", None)


def test_break_even_by_hand(world):
    for pipeline, right, train_s, p50 in [
        ("greedy", 40, 0.0, 0.05),  # quick, but less accurate: no rival
        ("vote", 80, 0.0, 0.30),
        ("long-vote", 85, 0.0, 0.60),
        ("sft", 80, 30.0, 0.10),  # repaid against vote: 30 / 0.2
        ("rl", 85, 100.0, 0.20),  # against long-vote: 100 / 0.4
        ("slow", 80, 50.0, 0.40),  # vote is quicker: never
        ("best", 95, 500.0, 0.01),  # nothing is as good
    ]:
        world.answers(pipeline, right, train_s=train_s)
        world.timing(pipeline, [p50])
    found = {name: row["break_even_questions"] for name, row in world.rows("latency").items()}
    assert found == {
        "greedy": None,
        "vote": None,
        "long-vote": None,
        "sft": 150,
        "rl": 250,
        "slow": None,
        "best": None,
    }


def test_break_even_ignores_upper_bounds_other_problems_and_other_models(world):
    world.answers("sft", 50, train_s=10.0)
    world.timing("sft", [0.1])
    for pipeline, spec in [("oracle", {"upper_bound": True}), ("far", {"model": "n"})]:
        world.answers(pipeline, 90, **spec)
        world.timing(pipeline, [0.2], **spec)
    world.answers("smoke", 10, n=10)
    world.timing("smoke", [0.2])
    assert world.rows("latency")["sft"]["break_even_questions"] is None
    world.answers("vote", 50)
    world.timing("vote", [0.4])
    assert world.rows("latency")["sft"]["break_even_questions"] == math.ceil(10 / 0.3)


def test_latency_of_what_failed_or_was_not_timed(world):
    for pipeline in ("greedy", "untimed", "unlucky"):
        world.answers(pipeline, 40)
    world.timing("greedy", [0.2])
    world.failure("unlucky", "timeout", "too slow", kind="timing")
    world.failure("dead", "crashed", "signal 11")
    rows = world.boards()["latency"]
    found = {row["pipeline"]: (row["status"], row["reason"], row["p50_s"]) for row in rows}
    assert found == {
        "greedy": ("ok", None, 0.2),
        "untimed": ("not timed", None, None),
        "unlucky": ("timeout", "too slow", None),
        "dead": ("crashed", "signal 11", None),
    }
    assert rows[0]["pipeline"] == "greedy"
    assert world.rows("latency")["untimed"]["tokens_per_question"] == 20


# -- files


def busy(world):
    for seed in range(2):
        world.answers("greedy", 40, seed=seed)
        world.answers("sft > grpo + self-consistency", 60, seed=seed, train_s=5.0)
        world.timing("greedy", [0.2], seed=seed)
    world.answers("oracle", 99, upper_bound=True)
    world.answers("random", 41, control=True)
    world.failure("ppo", "diverged", "nan")
    world.answers("judge + best", 50, scorer="judge", shows_scorer=True, drawn=[(True, 0.9), (False, 0.2)])
    for samples in (4, 16):
        world.point(samples, 50)
    return world


def test_boards_made_twice_are_the_same_bytes(world, tmp_path):
    busy(world)
    first = write_boards(tmp_path / "one", world.boards())
    assert [path.name for path in first] == [
        f"{board}.{ending}"
        for board in ("accuracy", "curves", "latency", "verifiers")
        for ending in ("md", "csv", "json")
    ]
    code = (
        "import sys; from harness.boards import *; from harness.builtin.metrics import harness_metrics;"
        "write_boards(sys.argv[2], make_boards(sys.argv[1], harness_metrics()))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    subprocess.run(
        [sys.executable, "-c", code, str(world.folder), str(tmp_path / "two")], check=True, env=environment, timeout=60
    )
    for path in first:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert write_boards(tmp_path / "one", world.boards()) == first
    assert len(list((tmp_path / "one").iterdir())) == 12


def test_json_holds_the_rows(world, tmp_path):
    boards = busy(world).boards()
    write_boards(tmp_path, boards)
    for name, rows in boards.items():
        content = json.loads((tmp_path / f"{name}.json").read_text(), parse_constant=pytest.fail)
        assert (content["board"], content["rows"]) == (name, rows)


def test_markdown_has_a_table_and_a_legend(world, tmp_path):
    write_boards(tmp_path, busy(world).boards())
    text = (tmp_path / "accuracy.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 7
    assert len({line.count("|") for line in lines}) == 1
    assert "sft > grpo + self-consistency" in text
    for word in ("rank:", "control", "upper bound", "Seeds: 2 (0, 1)", "name cpu, threads 2", "Holm", "diverged; nan"):
        assert word in text
    assert "break-even:" in (tmp_path / "latency.md").read_text()


PAYLOADS = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a|b", "a\nb", "a\r\n|b", "`x`", "[x](javascript:x)",
    "![x](http://x/y.png)", "&lt;script&gt;", "\\|", "\\", '=HYPERLINK("x")', "+1", "-1+2", "@SUM(1)", "\t=1", "\r=1",
    "\0=1", "\x1b[31mred", "[bold]x[/bold]", "[/]", "\ud800", "\u202ex", "\u2028", "</table>", "<!--", "--|--",
    "'", '"',
]  # fmt: skip


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_is_neutral_in_every_format(world, tmp_path, payload):
    from markdown_it import MarkdownIt
    from rich.console import Console

    world.answers(payload, 40, model=payload, config={payload: payload})
    world.failure("failed", reason=payload, model=payload)
    world.answers("plain", 40)
    boards = world.boards()
    write_boards(tmp_path, boards)
    for name, rows in boards.items():
        text = (tmp_path / f"{name}.md").read_bytes().decode()
        html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
        # One heading, one table, one list; no tag that we did not make.
        tags = {tag.split(">")[0].split(" ")[0].strip("/") for tag in html.split("<")[1:]}
        assert tags <= {"h1", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "p"}
        assert html.count("<tr>") == 1 + len(rows)
        assert html.count("<td") == len(rows) * html.count("<th>") + len(rows) * html.count("<th ")
        content = (tmp_path / f"{name}.csv").read_bytes().decode()
        parsed = list(csv.reader(io.StringIO(content, newline="")))
        assert len(parsed) == 1 + len(rows)
        assert {len(line) for line in parsed} == {len(parsed[0])}
        for cell in (cell for line in parsed for cell in line):
            assert not cell.startswith(("=", "+", "@", "\t", "\r", "\0"))
            assert not cell.startswith("-") or float(cell) < 0
        assert json.loads((tmp_path / f"{name}.json").read_text())["rows"] == rows
        console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
        console.print(render(name, rows, full=True))
        assert not set(console.file.getvalue().replace("\n", "")) & {chr(i) for i in (*range(32), 127, 0x202E)}


def test_negative_numbers_stay_numbers_in_csv(world, tmp_path):
    world.answers("greedy", 40)
    world.answers("worse", 30)
    write_boards(tmp_path, world.boards())
    lines = csv.DictReader((tmp_path / "accuracy.csv").read_text().splitlines())
    [row] = [row for row in lines if row["pipeline"] == "worse"]
    assert float(row["delta"]) == pytest.approx(-0.1)
    assert json.loads(row["seeds"]) == [0]


def test_pandas_reads_the_csv(world, tmp_path):
    import pandas as pd

    write_boards(tmp_path, busy(world).boards())
    table = pd.read_csv(tmp_path / "accuracy.csv")
    assert list(table["accuracy"].dropna()) == sorted(table["accuracy"].dropna(), reverse=True)
    assert list(table.columns)[:3] == ["rank_low", "rank_high", "pipeline"]


DECIDES = {
    "accuracy": {"pipeline", "accuracy %", "delta", "rank"},
    "latency": {"pipeline", "p50 s", "x greedy"},
    "verifiers": {"scorer", "AUC", "best of 16 %", "majority %"},
    "curves": {"curve", "width", "tokens/question", "accuracy %"},
}


def test_terminal_tables_fit(world):
    boards = busy(world).boards()
    for name, rows in boards.items():
        wide, narrow = render(name, rows), render(name, rows, width=90)
        full = render(name, rows, full=True, width=40)
        assert len(narrow.columns) < len(wide.columns) < len(full.columns)
        assert narrow.row_count == len(rows)
        heads = [column.header for column in narrow.columns]
        assert DECIDES[name] | {"note"} <= set(heads)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_column_is_squeezed_away_on_a_narrow_terminal(world, width):
    for name, rows in busy(world).boards().items():
        console = Console(width=width, file=io.StringIO())
        table = render(name, rows, width=width)
        console.print(table)
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        for column in table.columns:
            if column.justify == "right":  # numbers, which say nothing when they are cut
                assert column.header in lines[2]
                assert all(cell.plain in "".join(lines) for cell in column.cells)


def test_completions_that_did_not_fit_stand_on_the_row(world):
    world.answers("sft", 60, train_s=1.0)
    [row] = world.boards()["accuracy"]
    assert row["dropped_rows"] == 0
    assert "did not fit" not in markdown("accuracy", [row])
    assert "12 completions did not fit the context" in markdown("accuracy", [{**row, "dropped_rows": 12.0}])


def test_a_policy_that_ran_away_stands_on_the_row(world):
    world.answers("ppo", 60, train_s=1.0)
    [row] = world.boards()["accuracy"]
    assert row["stopped"] == 0
    assert "ran away" not in markdown("accuracy", [row])
    assert "training was stopped, as the policy ran away" in markdown("accuracy", [{**row, "stopped": 1 / 3}])


def test_an_unwritable_folder_is_one_line(world, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StoreError, match="out"):
        write_boards(tmp_path / "out", world.boards())


def test_boards_import_neither_torch_nor_pandas():
    code = (
        "import sys, harness.boards, harness.builtin.metrics;"
        "print({'torch', 'transformers', 'pandas', 'scipy', 'rich', 'tabulate'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_ten_thousand_records_take_seconds(world):
    rng = random.Random(8)
    (world.folder / "cells").mkdir(parents=True)
    common = {"extracted": "1", "finish": "eos", "sampled_correct": None, "sampled_tokens": 9, "flops": 1e6}
    drawn = [
        json.dumps([{"id": f"p{i}", "correct": rng.random() < 0.5, "samples": [], **common} for i in range(20)])
        for _ in range(50)
    ]
    for n in range(10_000):  # past the store, whose fsync is not what is timed here
        pipeline = "greedy" if n < 5 else f"method-{n // 5}"
        record = {"schema": 1, "kind": "answers", "key": f"{n:08x}", "status": "ok", "reason": None, "training": []}
        text = json.dumps({**record, "spec": world.spec(pipeline, n % 5), "machine": {}, "answers": 0})
        path = world.folder / "cells" / f"{pipeline}-{n:08x}.json"
        path.write_text(text.replace('"answers": 0', f'"answers": {drawn[n % 50]}'))
    began = time.process_time()  # not the clock: others may use this machine
    boards = world.boards()
    write_boards(world.folder / "boards", boards)
    assert time.process_time() - began < 30  # about 6 where it was written
    assert len(boards["accuracy"]) == 2000
    assert {row["status"] for row in boards["accuracy"]} == {"ok"}


# -- verifiers


def test_a_scorer_has_a_row_of_its_own(world):
    judged = {"scorer": "judge", "start": "sft", "shows_scorer": True}
    world.answers("sft", 60, n=10)
    for seed in range(2):
        world.answers("sft > judge + best", 7, n=10, seed=seed, drawn=[(True, 0.9), (False, 0.4 + seed)], **judged)
        world.timing("sft > judge + best", [0.2], seed=seed, scored=(100, 0.5 + seed), **judged)
    [row] = world.boards()["verifiers"]
    assert (row["scorer"], row["policy"], row["seeds"], row["n"]) == ("judge", "sft", [0, 1], 10)
    assert row["within_problem_auc"] == 0.5  # 1 with seed 0, 0 with seed 1
    assert (row["best_of_1"], row["best_of_2"], row["best_of_16"]) == (0.5, 0.5, None)
    assert row["s_per_1000"] == pytest.approx(1000 * 2.0 / 200)


def test_the_best_scorer_comes_first_and_a_lost_one_last(world):
    world.answers("a + best", 50, scorer="blind", shows_scorer=True, drawn=[(True, 0.5), (False, 0.5)])
    world.answers("b + best", 50, scorer="good", shows_scorer=True, drawn=[(True, 0.9), (False, 0.5)])
    world.failure("c + best", "diverged", "nan", scorer="lost", shows_scorer=True)
    world.answers("d + search", 50, scorer="good", drawn=[(True, 0.9), (True, 0.5)])  # its samples are chosen ones
    rows = world.boards()["verifiers"]
    assert [(row["scorer"], row["status"]) for row in rows] == [("good", "ok"), ("blind", "ok"), ("lost", "diverged")]
    assert (rows[2]["reason"], rows[2]["within_problem_auc"], rows[2]["s_per_1000"]) == ("nan", None, None)


# -- curves


def test_a_curve_has_a_point_a_width_and_its_points_have_no_rank(world):
    world.answers("greedy", 40)
    for seed in range(2):
        for samples, right in ((4, 50 + seed), (16, 60), (2, 45)):
            world.point(samples, right, seed=seed)
    boards = world.boards()
    assert {row["pipeline"] for row in boards["accuracy"]} == {"greedy", "greedy + vote"}
    found = [(row["width"], row["accuracy"], row["tokens_per_question"], row["seeds"]) for row in boards["curves"]]
    assert found == [(2, 0.45, 20, [0, 1]), (4, 0.505, 40, [0, 1]), (16, 0.6, 160, [0, 1])]
    assert {(row["curve"], row["scales"]) for row in boards["curves"]} == {("greedy + vote", "samples")}
    assert all(row["ci_low"] < row["accuracy"] < row["ci_high"] for row in boards["curves"])


def test_a_width_alone_is_no_curve_and_nothing_else_may_differ(world):
    world.point(16, 60)
    world.point(4, 50, temperature=0.9)
    world.point(8, 50, start="sft")
    assert world.boards()["curves"] == []
    world.point(2, 40, temperature=0.9)
    assert [row["width"] for row in world.boards()["curves"]] == [2, 4]


@pytest.mark.parametrize(
    ("label", "curve"),
    [
        ("a + vote(samples=4)", "a + vote"),
        ("a(x=1) + vote", "a(x=1) + vote"),
        ("a(x=1) > b + vote(choose=best, samples=4)", "a(x=1) > b + vote(choose=best)"),
        ("a(samples=4) + vote(samples=4)", "a(samples=4) + vote"),
        ("a(samples=4) + vote(samples=44)", "a(samples=4) + vote(samples=44)"),
    ],
)
def test_a_curve_is_named_without_its_width(label, curve):
    assert _without(label, "samples=4") == curve


def test_what_was_fixed_and_what_was_broken_are_counted_by_problem_and_seed(world):
    for seed in range(2):
        world.answers("greedy", [True, True, False, False], seed=seed)
    world.answers("refine", [True, False, True, True], seed=0)
    world.answers("refine", [True, True, False, True], seed=1)
    row = world.rows()["refine"]
    assert (row["fixed"], row["broken"]) == (3 / 8, 1 / 8)
    assert row["delta"] == pytest.approx(row["fixed"] - row["broken"])
    assert (world.rows()["greedy"]["fixed"], world.rows()["greedy"]["broken"]) == (None, None)
