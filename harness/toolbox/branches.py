"""Branches: partial solutions that a search grows step by step. A branch is a completion that may go on.

Its `finish` tells: `stop` at the end of a step, `eos` or `length` where nothing more will come.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.contracts import Completion, Model, Prompt
from harness.meter import BudgetSpentError, Run
from harness.toolbox.sampling import SampleRequest, fetch

ROOT = Completion("", (), (), "stop")
"""Where every search begins."""
STEP_STOPS = (".", "\n\n")
"""What ends a step: a sentence, or a paragraph."""


def goes_on(branch: Completion) -> bool:
    """Whether more may follow."""
    return branch.finish == "stop"


def judge(
    run: Run, prompt: Prompt, branches: Sequence[Completion], known: dict[tuple[int, ...], tuple[float, Completion]]
) -> list[tuple[float, Completion]]:
    """(score, branch) of each, by the scorer of the pipeline in one request.

    known: what was judged before, by tokens; it grows. Equal branches are one object, and nothing is judged twice.
    """
    new = {branch.tokens: branch for branch in reversed(branches) if branch.tokens not in known}
    asked = list(new.values())[::-1]
    if asked:
        totals = [scores.total for scores in run.score(prompt, asked)]
        known.update((branch.tokens, (total, branch)) for total, branch in zip(totals, asked, strict=True))
    return [known[branch.tokens] for branch in branches]


def grow(  # noqa: PLR0917 - as `sample`
    model: Model,
    prompt: Prompt,
    run: Run,
    branches: Sequence[Completion],
    n: int = 1,
    temperature: float = 1.0,
    *,
    whole: bool = False,
) -> list[list[Completion]]:
    """`n` branches from each branch, one step longer, or `whole`: to their end. All are drawn in one batch.

    A branch that is finished is its own only child, and costs nothing. The budget is shared by the rows: where it ends
    within a step, that branch ends there.

    Raises:
        BudgetSpentError: not one token a row is left to spend.
        ValueError: `n` is below 1.
    """
    if n < 1:
        msg = f"n must be at least 1, not {n}"
        raise ValueError(msg)
    ids, growing = model.encode_prompt(prompt), [branch for branch in branches if goes_on(branch)]
    if not growing:
        return [[branch] for branch in branches]
    share = int(min(run.left, run.max_new_tokens * len(growing) * n)) // (len(growing) * n)
    if share < 1:
        msg = f"no token is left of the budget of {run.budget}"
        raise BudgetSpentError(msg)
    requests = [
        SampleRequest(
            (*ids, *branch.tokens),
            tuple(run.next_draws(run.problem_id, n)),
            temperature,
            max(1, min(share, run.max_new_tokens - len(branch.tokens))),
            () if whole else STEP_STOPS,
            len(branch.tokens),
        )
        for branch in growing
    ]
    grown = iter(fetch(model, run, requests))
    return [[_longer(model, run, b, new) for new in next(grown)] if goes_on(b) else [b] for b in branches]


def _longer(model: Model, run: Run, branch: Completion, new: Completion) -> Completion:
    tokens = (*branch.tokens, *new.tokens)
    spoken = tokens[:-1] if new.finish == "eos" else tokens
    full = len(tokens) >= run.max_new_tokens and new.finish == "stop"
    return Completion(model.decode(spoken), tokens, (*branch.logprobs, *new.logprobs), "length" if full else new.finish)
