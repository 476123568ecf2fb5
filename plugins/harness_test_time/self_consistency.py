"""Self-consistency: sample many chains of thought, and let them vote on the answer.

Papers: Wang et al. 2022, arXiv:2203.11171, sec. 2: argmax_a sum_i 1[a_i = a], the unweighted vote; Aggarwal et al.
2023 (Adaptive-Consistency), arXiv:2305.11860, sec. 3: draw no more once P(p > 1/2) >= `early_stop`, where
p ~ Beta(v_1 + 1, v_2 + 1) is the share of the leading answer, with v_1 votes, beside the second, with v_2.
Data: none. Cost: `samples` completions a question, which can run side by side; with an early stop fewer, in rounds.
Left out: the weighted sums of table 1, which the paper finds no better than the plain vote. Adaptive-Consistency looks
after every sample; here it looks after every round, as samples of a round cost one of them in time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness import Answer, BudgetSpentError, Completion, Model, Prompt, Run, hookimpl
from harness.toolbox import check_fields, final_answer, sample, vote

ROUND = 4
"""Chains drawn between two looks: the fewest that can be enough for the paper's .95, as 4 votes to 0 are .969."""


def stays_ahead(first: int, second: int) -> float:
    """P(p > 1/2) for p ~ Beta(first + 1, second + 1), exactly: at most `first` heads of all their coins and one."""
    coins = first + second + 1
    return sum(math.comb(coins, heads) for heads in range(first + 1)) / (1 << coins)


def settled(chains: Sequence[Completion]) -> float:
    """How likely the majority stays the majority; 1/2 where no chain has an answer."""
    votes = Counter(answer for chain in chains if (answer := final_answer(chain.text)) is not None)
    first, second, *_ = [*sorted(votes.values(), reverse=True), 0, 0]
    return stays_ahead(first, second)


@dataclass(frozen=True)
class SelfConsistency:
    name: ClassVar[str] = "self-consistency"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    scales: ClassVar[str] = "samples"
    samples: int = 16
    """Chains that vote; the paper draws 40 and gains little beyond 20 (fig. 2)."""
    temperature: float = 0.7
    """Sec. 3.1 uses 0.5 to 0.7; at 0 every vote would be the same."""
    early_stop: float = 1.0
    """How sure the majority must be before no more is drawn: 1 is never, Adaptive-Consistency's is .95."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("samples", self.samples >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or above, and finite"),
            ("early_stop", 1 / 2 < self.early_stop <= 1, "above .5, which any majority reaches, and at most 1"),
        )

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        size = self.samples if self.early_stop == 1 else ROUND
        chains: list[Completion] = []
        while len(chains) < self.samples and settled(chains) < self.early_stop:
            n = min(size, self.samples - len(chains))
            try:
                chains += sample(model, prompt, run, n=n, temperature=self.temperature)
            except BudgetSpentError:
                if not chains:
                    raise
                break
        return Answer(vote(chains).text, tuple(chains))


@hookimpl
def harness_methods() -> list[type]:
    return [SelfConsistency]
