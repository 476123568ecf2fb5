"""Graph of thoughts: solutions are drawn, scored, thinned out, corrected and merged by a fixed graph of operations.

Paper: Besta et al. 2023, arXiv:2308.09687, sec. 3: Generate, Score, KeepBest, Improve (ValidateAndImprove: a correction
stays where it scores higher) and Aggregate. The merge declared here, for questions with one answer, is the vote of the
thoughts that reach it, weighted by their scores: argmax_a sum_i S(x, y_i) 1[a_i = a].
Data: none; the scorer before it in the pipeline was trained. Cost: `samples` completions side by side, then `keep` an
improving round, and a judgement of each. With keep=1 and improve=0 it is best-of-n.
Left out: a merge by the model, which would read k solutions in one prompt, and GroundTruth, which reads the answer key.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from harness import Answer, Completion, Model, Prompt, Run, hookimpl
from harness.toolbox import SampleRequest, asked_to_fix, check_fields, ended, fetch, sample, vote


@dataclass(frozen=True)
class Task:  # what every operation works on
    model: Model
    prompt: Prompt
    run: Run


@dataclass(frozen=True)
class Thought:
    completion: Completion
    score: float = -math.inf  # not judged yet


Node = tuple[str, Callable[..., list[Thought]], tuple[str, ...]]
"""(name, operation, names of those whose thoughts it takes, after the task)"""


def best_first(thoughts: list[Thought]) -> list[Thought]:
    return sorted(thoughts, key=lambda thought: -thought.score)  # a tie: the first drawn


def score(task: Task, thoughts: list[Thought]) -> list[Thought]:
    """Score: all that are not judged yet, in one request."""
    new = [t for t in thoughts if t.score == -math.inf]
    judged = iter(task.run.score(task.prompt, [t.completion for t in new]) if new else ())
    return [replace(t, score=next(judged).total) if t.score == -math.inf else t for t in thoughts]


def better(_: Task, before: list[Thought], after: list[Thought]) -> list[Thought]:
    """Validate: of each thought and its correction the one with the higher score; a tie: the thought."""
    return [max(pair, key=lambda thought: thought.score) for pair in zip(before, after, strict=True)]


def aggregate(_: Task, thoughts: list[Thought]) -> list[Thought]:
    """Aggregate: the best finished thought with the answer that wins the vote; without any answer, the best."""
    ranked = best_first([t for t in thoughts if t.completion.finish != "length"] or thoughts)
    return [Thought(vote([t.completion for t in ranked], [t.score for t in ranked]))]


@dataclass(frozen=True)
class GraphOfThoughts:
    name: ClassVar[str] = "graph-of-thoughts"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft", "process-reward-model")
    needs: ClassVar[tuple[str, ...]] = ("scorer",)
    scales: ClassVar[str] = "samples"
    samples: int = 8
    """Thoughts to begin with."""
    keep: int = 4
    """Thoughts that go on from there, the best by score."""
    improve: int = 1
    """Rounds in which each of them is corrected once."""
    temperature: float = 1.0
    """Of thoughts and corrections; at 0 all would be the same."""
    ask: str = "{question}\nDraft: {draft}\nFix the draft."
    """How a correction is asked for: the form that the embedded world's base model has read."""
    right: str = "The draft is right."
    """What a reply begins with that corrects nothing."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("samples", self.samples >= 1, "1 or more"),
            ("keep", 1 <= self.keep <= self.samples, f"from 1 to samples={self.samples}"),
            ("improve", self.improve >= 0, "0 or more"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or above"),
            ("ask", "{question}" in self.ask and "{draft}" in self.ask, "a text with {question} and {draft}"),
            ("right", bool(self.right.strip()), "the first words of a reply that corrects nothing"),
        )

    def graph(self) -> list[Node]:
        """The operations, each behind those that it takes thoughts from."""
        nodes: list[Node] = [("drawn", self.generate, ()), ("scored", score, ("drawn",))]
        nodes.append((last := "kept", self.keep_best, ("scored",)))
        for n in range(self.improve):
            nodes += [(f"fixed {n}", self.fix, (last,)), (f"judged {n}", score, (f"fixed {n}",))]
            nodes.append((f"better {n}", better, (last, f"judged {n}")))
            last = f"better {n}"
        return [*nodes, ("merged", aggregate, (last,))]

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        task, made = Task(model, prompt, run), dict[str, list[Thought]]()
        for name, operation, before in self.graph():
            made[name] = operation(task, *(made[other] for other in before))
        every = {id(t.completion): t.completion for thoughts in made.values() for t in thoughts}  # in drawing order
        return Answer(made["merged"][0].completion.text, tuple(every.values()))

    def generate(self, task: Task) -> list[Thought]:
        """Generate: whole solutions, as many as the budget allows."""
        drawn = sample(task.model, task.prompt, task.run, n=self.samples, temperature=self.temperature)
        return [Thought(completion) for completion in drawn]

    def keep_best(self, task: Task, thoughts: list[Thought]) -> list[Thought]:
        """KeepBest: what the budget cut off only where it is alone."""
        whole = [t for t in thoughts if task.run.left or ended(t.completion, task.run)]
        return best_first(whole or thoughts)[: self.keep]

    def fix(self, task: Task, thoughts: list[Thought]) -> list[Thought]:
        """Improve: each thought corrected; itself where the reply is none, or the budget or context has no room."""
        run, count = task.run, len(thoughts)
        share = int(min(run.left, run.max_new_tokens * count)) // count
        if share < 1:
            return thoughts
        asked = [asked_to_fix(self.ask, task.prompt, thought.completion.text) for thought in thoughts]
        ids = [tuple(task.model.encode_prompt(prompt)) for prompt in asked]
        seeds = [tuple(run.next_draws(run.problem_id, 1)) for _ in thoughts]
        requests = [SampleRequest(i, seed, self.temperature, share) for i, seed in zip(ids, seeds, strict=True)]
        replies = [reply for [reply] in fetch(task.model, run, requests)]
        return [Thought(r) if self.corrects(r, t.completion) else t for t, r in zip(thoughts, replies, strict=True)]

    def corrects(self, reply: Completion, draft: Completion) -> bool:
        """Not where it calls the draft right, is the draft again, or was cut short and the draft was not."""
        whole = bool(reply.tokens) and (reply.finish != "length" or draft.finish == "length")
        return whole and not reply.text.lstrip().startswith(self.right) and reply.text != draft.text


@hookimpl
def harness_methods() -> list[type]:
    return [GraphOfThoughts]
