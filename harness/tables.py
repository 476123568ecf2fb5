"""Tables: rows of a board as Markdown, CSV, JSON and on a terminal, the same bytes from the same rows.

Every text in a row may come from a plugin or a model, so each format neutralises it: Markdown escapes HTML, bars,
brackets and backticks; CSV puts an apostrophe before what a spreadsheet would take for a formula; a terminal gets
printable characters only, and no markup.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.files import write_atomically

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]
SCHEMA = 1
FIGURES = (
    *("sampled_accuracy", "parse_failures", "truncated"),
    *("trainable_parameters", "forgetting", "wasted", "stopped", "dropped_rows", "shortened_rows"),
)
COST = ("tokens_per_question", "train_s", "train_tokens", "flops", "train_flops")
ACCURACY = (
    *("rank_low", "rank_high", "pipeline", "method", "family", "model", "dataset", "seeds", "n"),
    *("accuracy", "ci_low", "ci_high", "start", "delta", "delta_low", "delta_high", "p_adjusted"),
    *("fixed", "broken", *FIGURES, "status", "reason", "control", "upper_bound", "config", "machine"),
)
LATENCY = (
    *("pipeline", "model", "dataset", "p50_s", "p95_s", "ratio_to_greedy", "throughput_qps", *COST),
    *("peak_memory_bytes", "break_even_questions", "status", "reason", "accuracy"),
    *("method", "family", "seeds", "control", "upper_bound", "config", "machine"),
)
VERDICTS = (
    *("within_problem_auc", "within_problem_auc_problems", "first_wrong_found", "wrong_solutions"),
    *("calibration_error", "best_of_1", "best_of_2", "best_of_4", "best_of_8", "best_of_16"),
    *("majority", "weighted_vote"),
)
VERIFIERS = (
    *("scorer", "policy", "model", "dataset", "seeds", "n", *VERDICTS, "s_per_1000", "train_s", "train_tokens"),
    *("status", "reason", "pipeline", "method", "family", "control", "upper_bound", "config", "machine"),
)
CURVES = (
    *("curve", "scales", "width", "model", "dataset", "seeds", "n", "accuracy", "ci_low", "ci_high"),
    *("tokens_per_question", "status", "reason", "pipeline", "method", "family"),
    *("control", "upper_bound", "config", "machine"),
)


@dataclass(frozen=True)
class Column:
    """A column for people: `weight` 0 is always shown, 1 where there is room, 2 in full tables only."""

    head: str
    text: Callable[[Row], str]
    legend: str
    weight: int = 2
    right: bool = True


def _percent(name: str, form: str = ".1f") -> Callable[[Row], str]:
    return lambda row: "" if row.get(name) is None else format(100 * row[name], form)


def _number(name: str, scale: float = 1.0) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        if row.get(name) is None:
            return ""
        value = row[name] / scale
        return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"  # noqa: PLR2004 - as people write

    return text


def _span(low: str, high: str, form: str = ".1f") -> Callable[[Row], str]:
    one, other = _percent(low, form), _percent(high, form)
    return lambda row: f"{one(row)} to {other(row)}" if row.get(low) is not None else ""


def _rank(row: Row) -> str:
    low, high = row.get("rank_low"), row.get("rank_high")
    return "" if low is None else str(low) if low == high else f"{low}-{high}"


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: str(row.get(name) or "")


def _note(row: Row) -> str:
    labels = [label for label in ("upper bound", "control") if row.get(label.replace(" ", "_"))]
    status = [] if row["status"] == "ok" else [row["status"]]
    missed = [f"{row['dropped_rows']:.0f} completions did not fit the context"] if row.get("dropped_rows") else []
    missed += ["training was stopped, as the policy ran away"] if row.get("stopped") else []
    reason = " ".join(str(row.get("reason") or "").split())
    reason = reason if len(reason) <= 120 else f"{reason[:117]}..."  # noqa: PLR2004
    return "; ".join([*labels, *status, *missed, *([reason] if reason else [])])


_WHAT = (
    Column("pipeline", _text("pipeline"), "methods in order, > trains, + answers", 0, right=False),
    Column("model", _text("model"), "the model it starts from", right=False),
    Column("dataset", _text("dataset"), "whose test split is asked", right=False),
)
_NOTE = Column("note", _note, "what else there is to know, see below", 0, right=False)
_COLUMNS = {
    "accuracy": (
        Column("rank", _rank, "a range where 95 % intervals overlap, within one model and dataset", 0),
        *_WHAT,
        Column("accuracy %", _percent("accuracy"), "problems answered right, mean over seeds", 0),
        Column("95 % interval", _span("ci_low", "ci_high"), "Wilson for one seed, bootstrap over problems for more", 1),
        Column("start", _text("start"), "the row it is compared with", right=False),
        Column("delta", _percent("delta", "+.1f"), "points more than the start, same problems and seeds", 0),
        Column("delta interval", _span("delta_low", "delta_high", "+.1f"), "its 95 % interval, paired bootstrap"),
        Column("p", _number("p_adjusted"), "paired test against the start, Holm-adjusted over the board", 1),
        Column("fixed %", _percent("fixed"), "problems that the start got wrong, and this got right"),
        Column("broken %", _percent("broken"), "problems that the start got right, and this got wrong"),
        Column("sampled %", _percent("sampled_accuracy"), "right when one answer is drawn at temperature"),
        Column("no answer %", _percent("parse_failures"), "nothing to be parsed, counts as wrong"),
        Column("cut off %", _percent("truncated"), "stopped by the token limit"),
        Column("trained parameters", _number("trainable_parameters"), "that the last stage could change"),
        Column(
            "forgetting",
            _number("forgetting"),
            "loss on text of before, nats a token more than the base model's",
        ),
        Column("wasted %", _percent("wasted"), "rollouts of training that taught nothing"),
        Column("problems", _number("n"), "questions a seed"),
        Column("seeds", lambda row: str(len(row["seeds"])), "repeats with other data order and sampling", 1),
        _NOTE,
    ),
    "latency": (
        *_WHAT,
        Column("p50 s", _number("p50_s"), "median seconds to answer one question asked alone", 0),
        Column("p95 s", _number("p95_s"), "95 of 100 questions are quicker", 1),
        Column("x greedy", _number("ratio_to_greedy"), "median over that of greedy in the same process", 0),
        Column("questions/s", _number("throughput_qps"), "when all questions are asked at once", 1),
        Column("tokens/question", _number("tokens_per_question"), "sampled, discarded ones included", 0),
        Column("FLOPs/question", _number("flops"), "estimated, answering"),
        Column("train s", _number("train_s"), "all stages from the base model on, and what a method prepared", 1),
        Column("train tokens", _number("train_tokens"), "trained, sampled and scored"),
        Column("train FLOPs", _number("train_flops"), "estimated"),
        Column("peak MiB", _number("peak_memory_bytes", 2**20), "highest memory in use"),
        Column(
            "break-even",
            _number("break_even_questions"),
            "questions until training is repaid by quicker answers than the quickest row that is as accurate and "
            "trained less; empty where there is no such row or it is quicker",
            1,
        ),
        _NOTE,
    ),
    "verifiers": (
        Column("scorer", _text("scorer"), "what judges", 0, right=False),
        Column("policy", _text("policy"), "whose samples are judged", 1, right=False),
        *_WHAT[1:],
        Column(
            "AUC", _number("within_problem_auc"), "how often right is put above wrong in a problem; .5 is chance", 0
        ),
        Column("first wrong %", _percent("first_wrong_found"), "wrong solutions whose first wrong step is found", 1),
        Column("calibration", _number("calibration_error"), "mean gap of said chance and share that is right", 1),
        Column("one %", _percent("best_of_1"), "one sample is right", 0),
        *(
            Column(f"best of {k} %", _percent(f"best_of_{k}"), f"the best-scored of {k} is right", weight)
            for k, weight in ((2, 2), (4, 1), (8, 2), (16, 0))
        ),
        Column("majority %", _percent("majority"), "what most of the same samples say is right", 0),
        Column("weighted vote %", _percent("weighted_vote"), "what has most of their score is right", 1),
        Column("s/1000", _number("s_per_1000"), "seconds to judge 1,000 samples, nothing else running", 1),
        Column("train s", _number("train_s"), "all stages from the base model on, the scorer's too"),
        Column("problems", _number("n"), "questions a seed"),
        Column("seeds", lambda row: str(len(row["seeds"])), "repeats with other data order and sampling", 1),
        _NOTE,
    ),
    "curves": (
        Column("curve", _text("curve"), "methods in order, > trains, + answers", 0, right=False),
        *_WHAT[1:],
        Column("by", _text("scales"), "the field of the answering method that is varied", 1, right=False),
        Column("width", _number("width"), "its value", 0),
        Column("tokens/question", _number("tokens_per_question"), "sampled, discarded ones included", 0),
        Column("accuracy %", _percent("accuracy"), "problems answered right, mean over seeds", 0),
        Column("95 % interval", _span("ci_low", "ci_high"), "Wilson for one seed, bootstrap over problems for more", 1),
        Column("problems", _number("n"), "questions a seed"),
        Column("seeds", lambda row: str(len(row["seeds"])), "repeats with other data order and sampling", 1),
        _NOTE,
    ),
}
_ESCAPES = {ord(letter): f"&#{ord(letter)};" for letter in "|[]`"} | {ord("&"): "&amp;", ord("<"): "&lt;"}
_SAME = ("model", "dataset")  # columns where they differ, named in the legend in any case
_LABELS = (
    "Labels: a control is there to be beaten; an upper bound cannot be used in earnest (it sees the right answers), so "
    "it has no rank. A row without a rank failed, lost a seed, or was asked other problems."
)


def write_boards(folder: str | Path, boards: Mapping[str, Sequence[Row]]) -> list[Path]:
    """Write `<board>.md`, `.csv` and `.json` for every board, each replaced at once; returns their paths.

    Raises:
        StoreError: the folder cannot be written.
    """
    paths = []
    for name in sorted(boards):
        for ending, make in (("md", markdown), ("csv", as_csv), ("json", as_json)):
            paths.append(Path(folder) / f"{name}.{ending}")
            write_atomically(paths[-1], make(name, boards[name]).encode("utf-8", "backslashreplace"))
    return paths


def markdown(board: str, rows: Sequence[Row]) -> str:
    """Return the table in Markdown with its legend."""
    from tabulate import tabulate  # noqa: PLC0415 - start-up

    columns = _shown(board, rows)
    cells = [[_escaped(column.text(row)) for column in columns] for row in rows]
    heads, sides = [column.head for column in columns], ["right" if column.right else "left" for column in columns]
    table = tabulate(cells, heads, tablefmt="pipe", disable_numparse=True, colalign=sides if cells else None)
    notes = "\n".join(f"- {_escaped(note)}" for note in notes_of(board, rows))
    return f"# {board.capitalize()}\n\n{table}\n\n{notes}\n"


def as_csv(board: str, rows: Sequence[Row]) -> str:
    """Return every key of the rows as CSV; lists and configs as JSON, nothing that a spreadsheet would run."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = _keys(board, rows)
    writer.writerow(map(_neutral, keys))
    writer.writerows([_neutral(row.get(key)) for key in keys] for row in rows)
    return out.getvalue()


def as_json(board: str, rows: Sequence[Row]) -> str:
    """Return the board as JSON: `{"board", "schema", "notes", "rows"}`, with null for what is not known."""
    content = {"board": board, "schema": SCHEMA, "notes": notes_of(board, rows), "rows": list(rows)}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def render(board: str, rows: Sequence[Row], *, width: int | None = None, full: bool = False) -> Table:
    """Return the board for a terminal: the columns that people decide by, all of them with `full`.

    width: characters there are; columns of less weight are left out until the table fits, and then texts are wrapped.
    """
    from rich.table import Table  # noqa: PLC0415 - start-up
    from rich.text import Text  # noqa: PLC0415

    columns = _shown(board, rows)
    for most in (2, 1, 0) if full else (1, 0):
        chosen = [column for column in columns if column.weight <= most or column.head in _SAME]
        cells = [[_printable(column.text(row)) for column in chosen] for row in rows]
        widths = [max([len(c.head), *(len(line[i]) for line in cells)]) for i, c in enumerate(chosen) if c is not _NOTE]
        if full or width is None or sum(widths) + 3 * len(chosen) + len(_NOTE.head) <= width:
            break
    table = Table(title=board, title_justify="left")
    for column in chosen:
        table.add_column(
            column.head, justify="right" if column.right else "left", no_wrap=column.right, overflow="fold"
        )
    for line in cells:
        table.add_row(*map(Text, line))
    return table


def notes_of(board: str, rows: Sequence[Row]) -> list[str]:
    """Legend of a board: its columns in plain words, its labels, its seeds and the machine it was made on."""
    words = "; ".join(f"{column.head}: {column.legend}" for column in _shown(board, rows))
    seeds = sorted({seed for row in rows for seed in row.get("seeds") or ()})
    machines = sorted({machine for row in rows if (machine := row.get("machine"))})
    asked = [f"{name.capitalize()}: {', '.join(sorted({str(row.get(name)) for row in rows}))}." for name in _SAME]
    made = f"Seeds: {len(seeds)} ({', '.join(map(str, seeds))}). Machine: {' / '.join(machines) or 'not recorded'}."
    if board == "latency" and len(machines) > 1:
        made += " Seconds from different machines cannot be compared."
    return [f"Columns: {words}.", _LABELS, " ".join([*asked, made])]


def _shown(board: str, rows: Sequence[Row]) -> list[Column]:
    """Columns of a board: model and dataset where they differ, and those that metrics of plugins add."""
    known = _COLUMNS.get(board, (*_WHAT, _NOTE))
    same = {name for name in _SAME if len({row.get(name) for row in rows}) <= 1}
    extra = [key for key in _keys(board, rows) if board == "accuracy" and key not in ACCURACY]
    more = [Column(key, _number(key), "from a plugin's metric") for key in extra]
    return [column for column in (*known[:-1], *more, known[-1]) if column.head not in same]


def _keys(board: str, rows: Sequence[Row]) -> list[str]:
    usual = {"accuracy": ACCURACY, "latency": LATENCY, "verifiers": VERIFIERS, "curves": CURVES}.get(board, ())
    return list(dict.fromkeys([*usual, *(key for row in rows for key in row)]))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _escaped(text: str) -> str:
    return _printable(text).translate(_ESCAPES)


def _neutral(value: Any) -> Any:
    if isinstance(value, Mapping | list | tuple):
        value = json.dumps(value, sort_keys=True)
    if isinstance(value, str):
        value = f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r", "\0")) else value
        return value.replace("\r", "\n")  # the writer quotes a field for its line feeds only
    return value
