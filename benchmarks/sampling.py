"""Sampling beside transformers' `generate`: many samples a prompt, each until it stops; seconds a useful token.

Both sides draw from the same distribution and not the same samples, so tokens after a row's end, which `generate` goes
on to compute, count for neither, and time is told a thousand tokens that are somebody's answer.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch

from benchmarks.course import questions
from benchmarks.generate import generate
from benchmarks.limit import decoding_seconds
from benchmarks.models import Setting
from benchmarks.pairs import OURS, Figures, Work, interleave
from harness.toolbox import SampleRequest, draw
from harness_world import MAX_NEW_TOKENS

GOALS = {"tiny": 2.2, "smollm2": 1.5}
PROMPTS, SAMPLES = 4, 16
PEER = "generate"
THOUSAND = 1000


def measure(setting: Setting) -> dict[str, Figures]:
    """Samples of questions as they are."""
    problems = questions(PROMPTS)
    prompts = [setting.model.encode_prompt(problem.prompt) for problem in problems]
    return {"sampling": compare_sampling(setting, prompts, GOALS[setting.kind])}


class Contest:
    """The two sides, and how many tokens each drew in each round."""

    def __init__(self, setting: Setting, prompts: Sequence[Sequence[int]]) -> None:
        self.model, self.prompts = setting.model, prompts
        self.longest = setting.scaled(MAX_NEW_TOKENS, MAX_NEW_TOKENS, 8)
        self.drawn: dict[str, list[int]] = {OURS: [], PEER: []}
        self.steps: list[int] = []

    def ours(self) -> Work:
        """`draw`, new samples each time."""
        seeds = range(SAMPLES * len(self.drawn[OURS]), SAMPLES * (len(self.drawn[OURS]) + 1))
        requests = [SampleRequest(tuple(ids), tuple(seeds), 1.0, self.longest) for ids in self.prompts]

        def work() -> float:
            lengths = [len(completion.tokens) for of_one in draw(self.model, requests) for completion in of_one]
            self.drawn[OURS].append(sum(lengths))
            self.steps.append(max(lengths))
            return sum(lengths) / THOUSAND

        return work

    def peer(self) -> Work:
        """`generate`, and the texts, which ours returns as well."""
        torch.manual_seed(len(self.drawn[PEER]))

        def work() -> float:
            found = generate(self.model, self.prompts, SAMPLES, 1.0, self.longest)
            rows = [row for of_one in found for row in of_one]
            for row in rows:
                self.model.decode(row)
            self.drawn[PEER].append(sum(map(len, rows)))
            return self.drawn[PEER][-1] / THOUSAND

        return work

    def mean(self, side: str) -> float:
        """Tokens a round that counts."""
        return statistics.mean(self.drawn[side][1:])


def compare_sampling(setting: Setting, prompts: Sequence[Sequence[int]], goal: float) -> Figures:
    """`draw` of ours and `generate` on the same prompts."""
    contest, rows = Contest(setting, prompts), SAMPLES * len(prompts)
    seconds = interleave({OURS: contest.ours, PEER: contest.peer}, setting.pairs, setting.clock)
    ours, theirs = contest.mean(OURS), contest.mean(PEER)
    passes = statistics.mean(contest.steps[1:]) + 1  # and one through the prompts
    least = decoding_seconds(setting.model, ours + sum(map(len, prompts)), passes, rows)
    lengths = sorted(map(len, prompts))
    drawn = f"{len(prompts)} prompts of {lengths[0]} to {lengths[-1]} tokens, {SAMPLES} samples each"
    return Figures.of(
        "1,000 useful tokens",
        seconds,
        PEER,
        limit_share=least / ours * THOUSAND / statistics.median(seconds[OURS]),
        at_least=goal,
        notes=(
            f"{drawn}, of {ours / rows:.1f} tokens here and {theirs / rows:.1f} there",
            greedy_agrees(setting, prompts, contest.longest),
        ),
    )


def greedy_agrees(setting: Setting, prompts: Sequence[Sequence[int]], longest: int) -> str:
    """Whether both sides say the same without chance, in a sentence. The prompts are of different lengths."""
    ours = draw(setting.model, [SampleRequest(tuple(ids), (0,), 0.0, longest) for ids in prompts])
    theirs = generate(setting.model, prompts, 1, 0.0, longest)
    same = sum(mine.tokens == its for [mine], [its] in zip(ours, theirs, strict=True))
    return f"greedy answers equal token for token: {same} of {len(prompts)}"
