"""Preference pairs: `python -m harness_world.pairs`, sampled from the base model and verified.

For each training problem the base is asked with the cue; a pair is one right and one wrong reply
of its own, so that what is rejected is what this model really gets wrong. The prompt is kept
without the cue. One pair a problem at most.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import torch

from harness_world.build import FILES, write_jsonl
from harness_world.cards import write_data_card
from harness_world.evaluate import BASE
from harness_world.generate import load, replies
from harness_world.problems import Problem
from harness_world.rows import Row
from harness_world.splits import SEED, draw_splits
from harness_world.verifier import verify
from harness_world.wordings import THINK

SAMPLES = 6
"""Replies drawn for a problem."""
PAIRS = 2400
ASKED = 3400
"""Problems asked: not all give both a right and a wrong reply."""
SHORTEST = 2
"""Fewest steps of a problem that is asked: one-step problems are hardly ever wrong."""


def pair_rows(problems: Sequence[Problem], samples: Sequence[Sequence[str]]) -> Iterator[Row]:
    """One readable right and one readable wrong reply a problem, where it has both."""
    number = 0
    for problem, texts in zip(problems, samples, strict=True):
        checked = {text: verify(str(problem.answer), text) for text in texts}  # once each, in order
        right = [text for text, (good, _) in checked.items() if good]
        wrong = [text for text, (good, said) in checked.items() if not good and said is not None]
        if not right or not wrong:
            continue
        number += 1
        rng = Random(f"{SEED}:pair:{number}")
        yield {
            "id": f"pair-{number:04d}",
            "prompt": problem.question,
            "chosen": rng.choice(right),
            "rejected": rng.choice(wrong),
        }


def main() -> None:
    """Sample, verify, write, and renew the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=BASE)
    parser.add_argument("--out", type=Path, default=FILES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load(options.model)
    problems = [row for row in draw_splits()["train"] if len(row.steps) >= SHORTEST][:ASKED]
    contents = [problem.question + THINK for problem in problems]
    samples = replies(model, tokenizer, contents, n=SAMPLES, temperature=1.0, seed=2)
    write_jsonl(options.out / "pairs.jsonl", list(pair_rows(problems, samples))[:PAIRS])
    write_data_card(options.out)


if __name__ == "__main__":
    main()
