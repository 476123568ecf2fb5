"""Write the data files: `python -m harness_world.build --out DIR`, the same bytes every time.

Everything but the preference pairs, which `pairs` samples from the base model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from harness_world.cards import write_data_card
from harness_world.money import draw_corpus, draw_money
from harness_world.rows import (
    GENERAL,
    GENERAL_DEV,
    Row,
    conversation_rows,
    dialogue_rows,
    general_rows,
    held_out_task_rows,
    instruction_rows,
    narrative_rows,
    problem_rows,
    stepwise_rows,
)
from harness_world.splits import draw_splits

FILES = Path(__file__).parent / "files"


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """One JSON object a line, plain ASCII, one kind of newline on every system."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(lines.encode("ascii"))


def build(out: Path, sizes: dict[str, int] | None = None) -> None:
    """All the files into `out`; `sizes` makes smaller splits for a quick check."""
    out.mkdir(parents=True, exist_ok=True)
    splits = draw_splits(sizes)
    for name, problems in splits.items():
        write_jsonl(out / f"{name}.jsonl", problem_rows(name, problems))
    for name, problems in draw_money().items():
        write_jsonl(out / f"money_{name}.jsonl", problem_rows(f"money-{name}", problems))
    asked = frozenset(problem.question for problems in splits.values() for problem in problems)
    views = {
        "conversations": conversation_rows(splits["train"]),
        "stepwise": stepwise_rows(splits["train"]),
        "instructions": instruction_rows(splits["train"]),
        "held_out_tasks": held_out_task_rows(),
        "dialogue": dialogue_rows(splits["easy"]),
        "corpus": narrative_rows(),
        "money_corpus": ({"text": text} for text in draw_corpus()),
        "general": general_rows("general", GENERAL, asked),
        "general_dev": general_rows("general-dev", GENERAL_DEV, asked),
    }
    for name, rows in views.items():
        write_jsonl(out / f"{name}.jsonl", rows)


def main() -> None:
    """Read the command line, write the files and their card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FILES)
    options = parser.parse_args()
    build(options.out)
    write_data_card(options.out)


if __name__ == "__main__":
    main()
