"""The metric of the verifiers board: what a scorer's judgements are worth, held against the verdicts of the dataset.

All figures are of the samples that a method drew and had scored; None where the facts do not hold one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness.statistics import best_of, calibration_error, mean, within_problem_auc

Sample = Mapping[str, Any]
CURVE = (1, 2, 4, 8, 16)
"""Samples to choose from: where the curve falls, the choice finds the scorer's mistakes."""
LIKELY = 0.5
"""A step that is less likely to be right than this is judged wrong."""


def verifier(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Figures of one answers record, shares from 0 to 1.

    `within_problem_auc`: how often a right sample has a higher score than a wrong one of the same problem. Between
    problems nothing is compared: a scorer that only knows which problems are easy gets 0.5.
    `first_wrong_found`: wrong solutions in which the first step judged wrong is the first wrong one.
    `calibration_error`: how far scores are from the share of right samples. `best_of_k`: the best-scored of k is right.
    `majority`, `weighted_vote`: the answer of most of the same samples is right; or of most of the score.
    """
    drawn = [answer.get("samples") or [] for answer in record["answers"]]
    groups = [scored for samples in drawn if (scored := [s for s in samples if s.get("score") is not None])]
    pairs = [([float(s["score"]) for s in group], [bool(s["correct"]) for s in group]) for group in groups]
    auc, compared = within_problem_auc(pairs)
    found, judged = first_wrong_found(sample for group in groups for sample in group)
    said, right = ([value for pair in pairs for value in pair[side]] for side in (0, 1))
    fewest = min((len(group) for group in groups), default=0)
    return {
        "within_problem_auc": auc,
        "within_problem_auc_problems": float(compared),
        "first_wrong_found": found / judged if judged else None,
        "wrong_solutions": float(judged),
        "calibration_error": calibration_error(said, [bool(label) for label in right]),
        **{f"best_of_{k}": mean(best_of(*pair, k) for pair in pairs) if k <= fewest else None for k in CURVE},
        "majority": mean(voted(group, lambda _: 1.0) for group in groups),
        "weighted_vote": mean(voted(group, _weight) for group in groups) if min(said, default=-1) >= 0 else None,
    }


def first_wrong_found(samples: Iterable[Sample]) -> tuple[int, int]:
    """Of how many solutions with a wrong step the scorer found the first one, and how many of those it judged."""
    found = judged = 0
    for sample in samples:
        said, right = sample.get("steps") or [], sample.get("right_steps") or []
        if len(said) == len(right) and False in right:
            judged += 1
            found += [chance < LIKELY for chance in said].index(True) == right.index(False) if min(said) < LIKELY else 0
    return found, judged


def voted(samples: Sequence[Sample], weight: Callable[[Sample], float]) -> bool:
    """Whether the answer with the most weight is right; a tie goes to the first seen, and no answer is no vote."""
    votes: defaultdict[str, float] = defaultdict(float)
    verdicts: dict[str, bool] = {}
    for sample in samples:
        if sample.get("answer") is not None:
            votes[sample["answer"]] += weight(sample)
            verdicts.setdefault(sample["answer"], bool(sample["correct"]))
    return bool(votes) and verdicts[max(votes, key=votes.__getitem__)]


def _weight(sample: Sample) -> float:
    return float(sample["score"])
