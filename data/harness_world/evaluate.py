"""Measure a model of the world: `python -m harness_world.evaluate --splits dev test`.

The numbers of the model card come from here.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from harness_world.generate import load, replies
from harness_world.problems import Problem
from harness_world.rationales import style_of
from harness_world.splits import draw_splits
from harness_world.verifier import extract, verify
from harness_world.wordings import THINK

BASE = Path(__file__).parent / "base"
Z = 1.96
"""Normal quantile of a 95 % interval."""
Figure = tuple[float, float, float]
"""Accuracy and its interval."""


@dataclass(frozen=True)
class Score:
    """How many of `n` were right, and how many had a readable answer."""

    right: int
    n: int
    parsed: int

    @property
    def share(self) -> float:
        """Accuracy."""
        return self.right / self.n

    @property
    def figure(self) -> Figure:
        """Accuracy with Wilson's interval."""
        p, n = self.share, self.n
        middle = p + Z * Z / (2 * n)
        half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        scale = 1 + Z * Z / n
        return p, (middle - half) / scale, (middle + half) / scale


def score(rows: Sequence[Problem], texts: Sequence[str]) -> Score:
    """One text a problem, verified."""
    checked = [verify(str(row.answer), text) for row, text in zip(rows, texts, strict=True)]
    parsed = sum(said is not None for _, said in checked)
    return Score(sum(right for right, _ in checked), len(rows), parsed)


def greedy(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Problem], *, cue: bool) -> Score:
    """Greedy replies to the questions, with or without the cue."""
    contents = [row.question + (THINK if cue else "") for row in rows]
    return score(rows, [texts[0] for texts in replies(model, tokenizer, contents)])


def vote(texts: Sequence[str]) -> str:
    """The text of the most frequent answer; a tie goes to the first seen."""
    answers = [extract(text) for text in texts]
    counts = Counter(answer for answer in answers if answer is not None)
    return texts[answers.index(counts.most_common(1)[0][0])] if counts else texts[0]


def by_style(rows: Sequence[Problem], samples: Sequence[Sequence[str]]) -> dict[str, tuple[float, float]]:
    """Style to (share of the samples, accuracy)."""
    seen: dict[str, list[bool]] = defaultdict(list)
    for row, texts in zip(rows, samples, strict=True):
        for text in texts:
            seen[style_of(text)].append(verify(str(row.answer), text)[0])
    total = sum(map(len, seen.values()))
    return {style: (len(right) / total, mean(right)) for style, right in sorted(seen.items())}


def table(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Problem], n: int = 16) -> dict[str, Any]:
    """Every figure of the card for one split."""
    cued = [row.question + THINK for row in rows]
    samples = replies(model, tokenizer, cued, n=n, temperature=1.0, seed=1)
    hits = [[verify(str(row.answer), t)[0] for t in texts] for row, texts in zip(rows, samples, strict=True)]
    singles = [mean(hit) for hit in hits]
    half = Z * stdev(singles) / math.sqrt(len(rows))
    oracle = Score(sum(any(hit) for hit in hits), len(rows), len(rows))
    accuracy = {
        "greedy, plain question": greedy(model, tokenizer, rows, cue=False).figure,
        "greedy, with the cue": greedy(model, tokenizer, rows, cue=True).figure,
        "one sample at T=1, with the cue": (mean(singles), mean(singles) - half, mean(singles) + half),
        f"majority of {n} at T=1, with the cue": score(rows, [vote(texts) for texts in samples]).figure,
        f"oracle pass@{n} at T=1, with the cue": oracle.figure,
    }
    return {"rows": len(rows), "accuracy": accuracy, "styles": by_style(rows, samples)}


def main() -> None:
    """Print the tables of some splits as JSON, or keep them beside the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=BASE)
    parser.add_argument("--splits", nargs="+", choices=("dev", "test", "easy"), default=["dev"])
    parser.add_argument("--limit", type=int, default=None, help="only the first problems")
    parser.add_argument("--keep", action="store_true", help="write figures.json into the model's folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load(options.model)
    splits = draw_splits()
    tables = {name: table(model, tokenizer, splits[name][: options.limit]) for name in options.splits}
    rounded = json.loads(json.dumps(tables), parse_float=lambda number: round(float(number), 4))
    text = json.dumps(rounded, indent=1) + "\n"
    if options.keep:
        (options.model / "figures.json").write_text(text, encoding="utf-8")
    print(text)  # noqa: T201  # what this script is for


if __name__ == "__main__":
    main()
