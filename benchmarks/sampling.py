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


def compare_sampling(setting: Setting, prompts: Sequence[Sequence[int]], goal: float) -> Figures:
    """`draw` of ours and `generate` on the same prompts."""
    model, longest = setting.model, setting.scaled(MAX_NEW_TOKENS, MAX_NEW_TOKENS, 8)
    count: dict[str, list[int]] = {OURS: [], PEER: []}
    steps: list[int] = []

    def ours() -> Work:
        first = SAMPLES * len(count[OURS])  # new samples each time
        requests = [SampleRequest(tuple(ids), tuple(range(first, first + SAMPLES)), 1.0, longest) for ids in prompts]

        def work() -> float:
            lengths = [len(completion.tokens) for of_one in draw(model, requests) for completion in of_one]
            count[OURS].append(sum(lengths))
            steps.append(max(lengths))
            return sum(lengths) / THOUSAND

        return work

    def peer() -> Work:
        torch.manual_seed(len(count[PEER]))

        def work() -> float:
            rows = [row for of_one in generate(model, prompts, SAMPLES, 1.0, longest) for row in of_one]
            for row in rows:
                model.decode(row)  # ours returns texts
            count[PEER].append(sum(map(len, rows)))
            return count[PEER][-1] / THOUSAND

        return work

    seconds = interleave({OURS: ours, PEER: peer}, setting.pairs, setting.clock)
    mean = {side: statistics.mean(counts[1:]) for side, counts in count.items()}
    tokens = mean[OURS] + sum(map(len, prompts))
    least = decoding_seconds(model, tokens, statistics.mean(steps[1:]) + 1, SAMPLES * len(prompts))
    lengths = sorted(map(len, prompts))
    own, its = (count_of / SAMPLES / len(prompts) for count_of in (mean[OURS], mean[PEER]))
    drawn = f"{len(prompts)} prompts of {lengths[0]} to {lengths[-1]} tokens, {SAMPLES} samples each"
    return Figures.of(
        "1,000 useful tokens",
        seconds,
        PEER,
        limit_share=least / mean[OURS] * THOUSAND / statistics.median(seconds[OURS]),
        at_least=goal,
        notes=(
            f"{drawn}, of {own:.1f} tokens here and {its:.1f} there",
            greedy_agrees(setting, prompts, longest),
        ),
    )


def greedy_agrees(setting: Setting, prompts: Sequence[Sequence[int]], longest: int) -> str:
    """Whether both sides say the same without chance, in a sentence. The prompts are of different lengths."""
    ours = draw(setting.model, [SampleRequest(tuple(ids), (0,), 0.0, longest) for ids in prompts])
    theirs = generate(setting.model, prompts, 1, 0.0, longest)
    same = sum(mine.tokens == its for [mine], [its] in zip(ours, theirs, strict=True))
    return f"greedy answers equal token for token: {same} of {len(prompts)}"
