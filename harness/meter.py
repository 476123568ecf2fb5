"""The meter: `Run` is handed to every verb and is the only way to spend. It counts tokens, keeps budgets, gives seeds.

Counting needs no help from a method: every forward pass of a watched model is counted by a hook on the module, and the
sampler charges what it reads and emits. FLOPs are the usual proxy: 2 N a token forward, plus 2 N for activation
gradients and 2 N_trainable for weight gradients, plus attention's 4 L d for every pair of tokens that attend.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.contracts import Completion, Model, ModelSize, Prompt, Scores
from harness.paying import paying, watch_passes

T = TypeVar("T")


class BudgetSpentError(Exception):
    """Nothing is left to spend: the loop that asked must end."""


def derive_seed(*parts: object) -> int:
    """63-bit seed from a hash of the parts, so that no seed depends on what else runs or in which order."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass
class Ledger:
    """What was spent, in tokens unless the name says otherwise."""

    prompt_tokens: int = 0
    """Read by a policy before it answers (a prompt encoded once for n samples counts n times, see `reused_tokens`)."""
    sampled_tokens: int = 0
    """Emitted by any model, discarded branches included."""
    scored_tokens: int = 0
    """Read by a forward pass without gradient: reference, reward model, judge, teacher."""
    trained_tokens: int = 0
    """Read by a forward pass with gradient."""
    reused_tokens: int = 0
    """The part of `prompt_tokens` that was not computed because a cache held it."""
    other_tokens: int = 0
    """What models opened by `Run.model` read (and no cache held) or emitted: a teacher, a judge."""
    model_calls: int = 0
    flops: float = 0.0
    shortened_rows: int = 0
    """Rows of batches whose prompt was cut on its left to fit the context; once for every time they were read."""
    dropped_rows: int = 0
    """Rows whose completion alone does not fit: nothing was learnt from them, and none is ever cut."""

    @property
    def total_tokens(self) -> int:
        """All that was read or emitted, by whatever model."""
        return self.prompt_tokens + self.sampled_tokens + self.scored_tokens + self.trained_tokens

    @property
    def own_tokens(self) -> int:
        """What a training budget is counted in: with a teacher or without, a student learns from as many tokens.

        A prompt that a cache holds is not read again for the next sample.
        """
        return self.total_tokens - self.other_tokens - self.reused_tokens

    def add(self, other: Ledger) -> None:
        """Add another ledger's figures to this one."""
        for item in dataclasses.fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))


def forward_flops(size: ModelSize, tokens: int, attended: int) -> float:
    """FLOPs of a forward pass over `tokens` tokens in which `attended` (query, key) pairs meet."""
    return 2.0 * size.parameters * tokens + 4.0 * size.layers * size.width * attended


Submit = Callable[[str, Any], Any]
"""`submit(kind, request)`: how a question's request reaches the batch it will be part of."""


@dataclass
class Run:
    """Budget, ledger, seeds and log of one stage of training or of one question.

    budget: most tokens that may be spent. Training counts everything but what other models spend
    (`Ledger.own_tokens`), a question counts sampled tokens. `None` is no limit.
    """

    root_seed: int
    budget: int | None = None
    counts: str = "own_tokens"
    problem_id: str = ""
    max_new_tokens: int = 256
    submit: Submit | None = None
    open_model: Callable[[str], Model] | None = None
    ledger: Ledger = field(default_factory=Ledger)
    curve: list[dict[str, float]] = field(default_factory=list)
    judged: defaultdict[Completion, list[Scores]] = field(default_factory=lambda: defaultdict(list))
    """What the scorer said of each completion, once for every time that it was asked."""
    single: str | None = None
    """The first whole sample of the question that was drawn at temperature 1, where one was."""
    stopped: str | None = None
    """Why training ended before its budget did."""
    on_progress: Callable[[float], None] | None = None
    _draws: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _handles: list[Any] = field(default_factory=list)
    _others: list[Model] = field(default_factory=list)
    _started: float = field(default_factory=time.perf_counter)

    # -- seeds

    def seed(self, *parts: object) -> int:
        """A seed that depends on this run's root seed and on `parts` alone."""
        return derive_seed(self.root_seed, *parts)

    def next_draws(self, problem_id: str, n: int) -> list[int]:
        """Seeds of the next `n` samples of a problem: sample i has the same seed in whatever method draws it."""
        first = self._draws[problem_id]
        self._draws[problem_id] += n
        return [self.seed("sample", problem_id, first + i) for i in range(n)]

    # -- budget

    @property
    def spent(self) -> int:
        """Tokens spent, in the unit of the budget."""
        return int(getattr(self.ledger, self.counts))

    @property
    def left(self) -> float:
        """Tokens left: infinity where there is no budget, none once the run was stopped."""
        if self.stopped:
            return 0
        return math.inf if self.budget is None else max(0, self.budget - self.spent)

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        return 0.0 if not self.budget else min(1.0, self.spent / self.budget)

    # -- spending

    def charge(
        self, kind: str, tokens: int, *, flops: float = 0.0, calls: int = 0, reused: int = 0, other: bool = False
    ) -> None:
        """Book `tokens` under `kind` (`prompt`, `sampled`, `scored` or `trained`); `other`: beside the budget."""
        name = f"{kind}_tokens"
        setattr(self.ledger, name, getattr(self.ledger, name) + tokens)
        self.ledger.other_tokens += tokens - reused if other else 0
        self.ledger.reused_tokens += reused
        self.ledger.model_calls += calls
        self.ledger.flops += flops
        if self.on_progress is not None:
            self.on_progress(self.progress)

    def model(self, name: str) -> Model:
        """Another model by its name, a teacher or a judge: frozen, and what it reads is counted, beside the budget.

        Raises:
            LookupError: this run can open none.
        """
        if self.open_model is None:
            msg = f"this run cannot open the model {name!r}"
            raise LookupError(msg)
        model = self.open_model(name)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._others.append(model)
        self.watch(model)
        return model

    def is_other(self, model: Model) -> bool:
        """Whether `model` came from `Run.model`, so that what it spends is beside the budget."""
        return any(other is model for other in self._others)

    def watch(self, model: Model) -> None:
        """Count every forward pass of `model` from now on, copies of it included, on this run or on who `pays`."""
        self._handles.append(watch_passes(model, self, other=self.is_other(model)))

    def book_pass(self, size: ModelSize, lengths: Sequence[int], trainable: int | None, *, other: bool = False) -> None:
        """Book a forward pass over rows of so many tokens.

        trainable: the weights that it trains; None where its output has no gradient.
        """
        tokens = sum(lengths)
        forward = forward_flops(size, tokens, sum(length * length for length in lengths))
        if trainable is None:
            self.charge("scored", tokens, flops=forward, calls=1, other=other)
        else:
            self.charge("trained", tokens, flops=2 * forward + 2.0 * trainable * tokens, calls=1, other=other)

    def pays(self) -> AbstractContextManager[None]:
        """Inside, forward passes of watched models and rows that do not fit are booked on this run, whoever watches."""
        return paying(self)

    def book_rows(self, shortened: int, dropped: int) -> None:
        """Book rows of a batch that did not fit the context."""
        self.ledger.shortened_rows += shortened
        self.ledger.dropped_rows += dropped

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    # -- what trainers ask for

    def batches(self, items: Sequence[T], size: int, epochs: int | None = None) -> Iterator[list[T]]:
        """Shuffled batches of `size` items, epoch after epoch, until the budget (or `epochs`) ends.

        Raises:
            ValueError: there is no item, or neither a budget nor `epochs` would end the loop.
        """
        if not items:
            msg = "there is nothing to train on"
            raise ValueError(msg)
        if self.budget is None and epochs is None:
            msg = "neither a budget nor epochs end this loop"
            raise ValueError(msg)
        epoch = 0
        while epochs is None or epoch < epochs:
            order, before = list(items), self.spent
            random.Random(self.seed("order", epoch)).shuffle(order)  # noqa: S311 - data order, not secrets
            for start in range(0, len(order), size):
                if self.left <= 0:
                    return
                yield order[start : start + size]
            if self.spent == before and epochs is None:
                msg = "an epoch went by without any forward pass of the model in training: nothing was learnt from"
                raise RuntimeError(msg)
            epoch += 1

    def log(self, **numbers: float) -> None:
        """Record a point of the training curve, stamped with tokens spent and seconds since the start.

        Raises:
            DivergedError: a number is NaN or infinite.
        """
        for name, value in numbers.items():
            if not math.isfinite(value):
                msg = f"{name} is {value} after {self.spent} tokens"
                raise DivergedError(msg)
        seconds = time.perf_counter() - self._started
        self.curve.append({"tokens": self.spent, "seconds": round(seconds, 3), **numbers})

    def stop(self, reason: str) -> None:
        """End training after this batch; the row says why."""
        self.stopped = reason

    # -- what answerers ask for

    def score(self, prompt: Prompt, completions: Sequence[Completion]) -> list[Scores]:
        """Scores of `completions` by the scorer of the pipeline.

        Raises:
            LookupError: the pipeline has no scorer.
            ValueError: it did not say one finite number of each.
        """
        if self.submit is None:
            msg = "this run has no scorer"
            raise LookupError(msg)
        scores: list[Scores] = self.submit("score", (self, prompt, list(completions)))
        finite = all(math.isfinite(value) for judged in scores for value in (judged.total, *judged.steps))
        if len(scores) != len(completions) or not finite:
            said = ", ".join(f"{s.total:.3g}" for s in scores)
            msg = f"problem {self.problem_id}: of {len(completions)} completions the scorer said {said or 'nothing'}"
            raise ValueError(msg)
        for completion, said_of_one in zip(completions, scores, strict=True):
            self.judged[completion].append(said_of_one)
        return scores


class DivergedError(Exception):
    """Training produced a number that is not finite."""
