"""Sampling: `sample` for one question, `sample_many` for rollouts, `draw` for whoever batches, `charge` for the books.

An `answer` verb calls `sample` for its one prompt. Where the run brings `submit`, the request meets those of other
questions there and is drawn in one batch with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from harness.contracts import Completion, Model, Prompt
from harness.meter import BudgetSpentError, Run, forward_flops
from harness.toolbox import fast_decoder, generate_decoder, llama
from harness.toolbox.choice import Row
from harness.toolbox.queue import Queue

MOST_ROWS = {"cpu": 256}
"""Rows a batch. A processor gains nothing from more: time grows with the rows, prompts are padded to longer ones, and
its cache no longer holds their keys and values (512 prompts with two samples each: 5.8 s against 7.8 s with 1024)."""
EMPTY = Completion(text="", tokens=(), logprobs=(), finish="length")


@dataclass(frozen=True)
class SampleRequest:
    """Samples of one prompt.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    """One a sample."""
    temperature: float = 1.0
    """0 takes the likeliest token."""
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    """Strings that end a completion; the text is cut before the first of them."""
    begun: int = 0
    """Tokens at the end of `prompt_ids` that are the completion's own: nobody else will ask for just these samples."""

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            msg = "prompt_ids is empty: there is nothing to go on from"
            raise ValueError(msg)
        if not 0 <= self.temperature < float("inf"):
            msg = f"temperature must be 0 or above, not {self.temperature}"
            raise ValueError(msg)
        if self.max_new_tokens < 1:
            msg = f"max_new_tokens must be at least 1, not {self.max_new_tokens}"
            raise ValueError(msg)
        if isinstance(self.stop, str) or "" in self.stop:
            msg = f"stop must be a tuple of strings that are not empty, not {self.stop!r}"
            raise ValueError(msg)


def _request(  # noqa: PLR0917 - `sample`'s arguments in its order
    model: Model, prompt: Prompt, run: Run, temperature: float, max_new_tokens: int | None, stop: Sequence[str]
) -> SampleRequest:
    longest = run.max_new_tokens if max_new_tokens is None else max_new_tokens
    stops = stop if isinstance(stop, str) else tuple(stop)
    return SampleRequest(tuple(model.encode_prompt(prompt)), (), temperature, longest, stops)  # type: ignore[arg-type]


def _check_count(n: int) -> None:
    if n < 1:
        msg = f"n must be at least 1, not {n}"
        raise ValueError(msg)


def sample(  # noqa: PLR0917 - `sample(model, prompt, run, 16)` is how it reads best
    model: Model,
    prompt: Prompt,
    run: Run,
    n: int = 1,
    temperature: float = 1.0,
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
) -> list[Completion]:
    """Draw `n` completions of one prompt, or as many as the run's budget allows, never more tokens than that.

    What the next rows might cost at most is set aside before they are drawn; what they did not use serves the rows
    after them. The very last row may be cut short by the budget.

    Raises:
        BudgetSpentError: nothing is left to spend.
        ValueError: `n`, `temperature`, `max_new_tokens` or `stop` is out of range.
    """
    _check_count(n)
    request = _request(model, prompt, run, temperature, max_new_tokens, stop)
    done: list[Completion] = []
    while len(done) < n:
        count, longest = _affordable(run, request, n - len(done))
        if count == 0:
            break
        seeds = tuple(run.next_draws(run.problem_id, count))
        [drawn] = fetch(model, run, [dataclasses.replace(request, seeds=seeds, max_new_tokens=longest)])
        done += drawn
    if not done:
        msg = f"no token is left of the budget of {run.budget}"
        raise BudgetSpentError(msg)
    return done


def _affordable(run: Run, request: SampleRequest, n: int) -> tuple[int, int]:
    """(rows, tokens a row) that the budget surely allows."""
    longest = request.max_new_tokens
    if run.budget is None:
        return n, longest
    extra = 0 if run.counts == "sampled_tokens" else len(request.prompt_ids)
    left = int(run.left)
    if left < longest + extra:
        return (1, left - extra) if left > extra else (0, 0)
    return min(n, left // (longest + extra)), longest


def fetch(model: Model, run: Run, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
    """What was asked for on behalf of one question, charged to it: from the batch that its run submits to, or now."""
    if run.submit is not None:
        completions: list[list[Completion]] = run.submit("sample", (run, model, list(requests)))
        return completions
    completions = draw(model, requests)
    for request, of_one in zip(requests, completions, strict=True):
        charge(run, model, request, of_one)
    return completions


def sample_many(  # noqa: PLR0917 - as `sample`
    model: Model,
    prompts: Sequence[Prompt],
    run: Run,
    ids: Sequence[str],
    n: int,
    temperature: float = 1.0,
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
) -> list[list[Completion]]:
    """Draw `n` completions of each prompt in one batch: a trainer's rollouts. `ids` are the problems', for the seeds.

    Rollouts that are begun are finished: the budget may be overdrawn by one batch, as by a batch that is trained on.

    Raises:
        BudgetSpentError: nothing is left to spend.
        ValueError: `n`, `temperature`, `max_new_tokens` or `stop` is out of range, or `ids` are not as many as prompts.
    """
    _check_count(n)
    if run.left <= 0:
        msg = f"no token is left of the budget of {run.budget}"
        raise BudgetSpentError(msg)
    requests = [
        dataclasses.replace(
            _request(model, prompt, run, temperature, max_new_tokens, stop), seeds=tuple(run.next_draws(name, n))
        )
        for prompt, name in zip(prompts, ids, strict=True)
    ]
    drawn = draw(model, requests)
    for request, completions in zip(requests, drawn, strict=True):
        charge(run, model, request, completions)
    return drawn


def charge(run: Run, model: Model, request: SampleRequest, completions: Sequence[Completion]) -> None:
    """Book one request: the prompt once a sample (all but the first as reused), what was sampled, a call a sample.

    FLOPs are those of the work: the prompt once, then every token but the last, which is not read again.
    """
    prompt, size = len(request.prompt_ids), model.size
    if not completions:
        return
    flops = forward_flops(size, prompt, prompt * prompt)
    for completion in completions:
        fed = max(0, len(completion.tokens) - 1)
        flops += forward_flops(size, fed, fed * prompt + fed * (fed + 1) // 2)
    count, other = len(completions), run.is_other(model)
    run.charge("prompt", count * prompt, reused=(count - 1) * prompt, flops=flops, calls=count, other=other)
    run.charge("sampled", sum(len(completion.tokens) for completion in completions), other=other)


def draw(model: Model, requests: Sequence[SampleRequest], max_rows: int | None = None) -> list[list[Completion]]:
    """Draw all samples of all requests and count nothing. Results are in the requests' order.

    max_rows: rows at a time; by default what suits the device (`MOST_ROWS`, elsewhere 1024).

    A prompt that fills the context gives empty completions whose finish reason is `length`.

    Raises:
        ValueError: `max_rows` is below 1.
    """
    max_rows = MOST_ROWS.get(model.device.name, 1024) if max_rows is None else max_rows
    if max_rows < 1:
        msg = f"max_rows must be at least 1, not {max_rows}"
        raise ValueError(msg)
    drawn = [[EMPTY] * len(request.seeds) for request in requests]
    places = [
        (number, place)
        for number in sorted(range(len(requests)), key=lambda k: _like_length(requests[k]))
        if len(requests[number].prompt_ids) < model.context
        for place in range(len(requests[number].seeds))
    ]
    queue = Queue(model, [_row(model, requests[number], place) for number, place in places], max_rows)
    if llama.supports(model.module):
        fast_decoder.decode(model.module, queue)
    else:
        generate_decoder.decode(model.module, queue, model.pad)
    for (number, place), completion in zip(places, queue.completions(), strict=True):
        drawn[number][place] = completion
    return drawn


def _like_length(request: SampleRequest) -> tuple[int, tuple[int, ...]]:
    """Sorts questions of like length together, and the branches of one side by side: they are read in part as one."""
    return len(request.prompt_ids) - request.begun, request.prompt_ids


def _row(model: Model, request: SampleRequest, place: int) -> Row:
    limit = min(request.max_new_tokens, model.context - len(request.prompt_ids))
    return Row(request.prompt_ids, request.seeds[place], request.temperature, limit, request.stop)
