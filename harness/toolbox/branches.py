"""Branches: partial solutions that a search grows step by step. A branch is a completion that may go on.

Its `finish` tells: `stop` at the end of a step, `eos` or `length` where nothing more will come.
Under a budget a search grows within what one whole answer leaves of it, and carries its best branch to its end with
that where it has found no solution: half a solution holds no answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

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


def ended(branch: Completion, run: Run) -> bool:
    """Whether it came to its end or limit: what the budget cut short is no more than a partial solution."""
    return branch.finish == "eos" or len(branch.tokens) >= run.max_new_tokens


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
    found: Iterable[Completion] | None = None,
) -> list[list[Completion]]:
    """`n` branches from each branch, one step longer, or `whole`: to their end. All are drawn in one batch.

    A branch that is finished is its own only child, and costs nothing. The budget is shared by the rows: where it ends
    within a step, that branch ends there.

    found: what a search has by now. As long as no solution is among it, the tokens of a whole answer stay untouched:
    they are for `carry`, or for a single row that is drawn `whole`.

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
    rows = len(growing) * n
    share = _share(run, rows, 0 if found is None or (whole and rows == 1) or _solved(found) else run.max_new_tokens)
    stops, requests = () if whole else STEP_STOPS, []
    for branch in growing:
        seeds, most = tuple(run.next_draws(run.problem_id, n)), min(share, run.max_new_tokens - len(branch.tokens))
        prompt_ids = (*ids, *branch.tokens)
        requests.append(SampleRequest(prompt_ids, seeds, temperature, max(1, most), stops, len(branch.tokens)))
    grown = iter(fetch(model, run, requests))
    return [[_longer(model, run, b, new) for new in next(grown)] if goes_on(b) else [b] for b in branches]


def carry(
    model: Model, prompt: Prompt, run: Run, judged: Sequence[tuple[float, Completion]], temperature: float = 1.0
) -> Completion | None:
    """The best of (score, branch) that is not at its end, carried there with what is left of the budget.

    What the budget cut short may be carried on as well; a tie goes to the first. Of nothing, it is one plain sample.
    None where a solution is among them, or nothing can be carried on.

    Raises:
        BudgetSpentError: there is no branch, and no token is left.
    """
    room = min(run.max_new_tokens, model.context - len(model.encode_prompt(prompt)))
    unfinished = [item for item in judged if goes_on(item[1]) or len(item[1].tokens) < room]
    if _solved(branch for _, branch in judged) or (judged and not unfinished):
        return None
    _, best = max(unfinished, key=lambda item: item[0], default=(0.0, ROOT))
    try:
        [[carried]] = grow(model, prompt, run, [replace(best, finish="stop")], 1, temperature, whole=True)
    except BudgetSpentError:
        if not best.tokens:
            raise
        return None
    return carried


def _solved(found: Iterable[Completion]) -> bool:
    return any(branch.finish == "eos" for branch in found)


def _share(run: Run, rows: int, reserve: int) -> int:
    """Tokens a row."""
    share = int(min(run.left - reserve, run.max_new_tokens * rows)) // rows
    if share < 1:
        msg = f"no token is left of the budget of {run.budget}" + f", but for a reserve of {reserve}" * (reserve > 0)
        raise BudgetSpentError(msg)
    return share


def _longer(model: Model, run: Run, branch: Completion, new: Completion) -> Completion:
    tokens = (*branch.tokens, *new.tokens)
    spoken = tokens[:-1] if new.finish == "eos" else tokens
    full = len(tokens) >= run.max_new_tokens and new.finish == "stop"
    return Completion(model.decode(spoken), tokens, (*branch.logprobs, *new.logprobs), "length" if full else new.finish)
