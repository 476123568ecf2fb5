"""Labels of steps: whether all is right up to the end of each, for whatever learns to judge steps.

A row of the stepwise view brings its labels. Steps of a model's own solutions are checked by the dataset (as people do
in Lightman et al. 2023, arXiv:2305.20050), or tried out by rollouts: Wang et al. 2023 (Math-Shepherd),
arXiv:2312.08935, eq. (3): c_k = 1 where any completion from the end of step k on ends right, else 0.
The answer line is the last step, and right if it verifies: or a solution that stops too early, in which nothing is
wrong yet, would be labelled like those that go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.contracts import Completion, Model, Problem, Stepwise, TrainingData
from harness.meter import Run
from harness.toolbox.batching import TokenPair
from harness.toolbox.sampling import SampleRequest, charge, draw, sample_many
from harness.toolbox.steps import judged_ends, solution_ends, step_ends

Solution = tuple[Problem, Completion, list[int]]
"""(problem, what was drawn, its `solution_ends`)"""


@dataclass(frozen=True)
class Draft:
    """A solution to learn from. It has no step where its steps are not told apart, or not all can be labelled."""

    pair: TokenPair
    """Prompt and completion."""
    ends: Sequence[int] = ()
    """How many tokens of the completion reach to the end of each step."""
    labels: Sequence[bool] = ()
    """Whether all is right up to there, one a step."""


def stepwise_draft(model: Model, row: Stepwise, lead: str) -> Draft:
    """A row of the stepwise view as a completion: `lead`, then the steps with a space between them.

    Raises:
        ValueError: its steps do not end where those of a completion to be scored will.
    """
    steps = [lead * (k == 0) + text for k, text in enumerate(row.completions)]
    tokens = model.encode_completion(" ".join(steps))
    ends = step_ends(model, tokens)
    read = [model.decode(tokens[a:b]).strip() for a, b in pairwise([0, *ends])]
    if read != [text.strip() for text in steps]:
        msg = f"row {row.id}: a step must end with its sentence or line, but {steps} are read as {read}"
        raise ValueError(msg)
    return Draft((model.encode_prompt(row.prompt), tokens), ends, row.labels)


def labelled_drafts(
    model: Model,
    problems: Sequence[Problem],
    data: TrainingData,
    run: Run,
    *,
    samples: int,
    rollouts: int | None = None,
) -> list[Draft]:
    """The model's own solutions at temperature 1, `samples` of each problem, problem after problem.

    rollouts: completions from the end of each step, at temperature 1, that label it; by default the dataset checks it.
    """
    drawn = sample_many(model, [p.prompt for p in problems], run, ids=[p.id for p in problems], n=samples)
    found = [(p, c, solution_ends(model, c.tokens)) for p, of_one in zip(problems, drawn, strict=True) for c in of_one]
    labels = checked(found, data) if rollouts is None else rolled_out(model, found, data, run, rollouts)
    return [labelled(model, *item, right, data) for item, right in zip(found, labels, strict=True)]


def labelled(  # noqa: PLR0917 - a solution, its steps' ends and labels, and who verifies it
    model: Model,
    problem: Problem,
    completion: Completion,
    steps: list[int],
    right: tuple[bool, ...],
    data: TrainingData,
) -> Draft:
    """A draft of a solution whose steps have labels, and whose answer has the verifier's."""
    pair = (model.encode_prompt(problem.prompt), completion.tokens)
    if len(right) != len(steps):
        return Draft(pair)
    ends, count = judged_ends(model, completion.tokens)
    return Draft(pair, ends, (*right, *[data.verify(problem, completion.text)[0]] * (len(ends) - count)))


def checked(found: Sequence[Solution], data: TrainingData) -> list[tuple[bool, ...]]:
    """What the dataset says of the steps of each; empty where it cannot tell."""
    return [data.check_steps(problem, c.text) if data.check_steps else () for problem, c, _ in found]


def rolled_out(
    model: Model, found: Sequence[Solution], data: TrainingData, run: Run, rollouts: int
) -> list[tuple[bool, ...]]:
    """Math-Shepherd's eq. (3): whether any of `rollouts` from the end of a step ends right."""
    places = [(problem, (*c.tokens[:end],)) for problem, c, ends in found for end in ends]
    requests = [
        SampleRequest(
            (*model.encode_prompt(problem.prompt), *prefix),
            tuple(run.next_draws(problem.id, rollouts)),
            max_new_tokens=run.max_new_tokens,
        )
        for problem, prefix in places
    ]
    right: list[bool] = []
    for (problem, prefix), request, ways in zip(places, requests, draw(model, requests), strict=True):
        charge(run, model, request, ways)
        right.append(any(data.verify(problem, model.decode((*prefix, *way.tokens)))[0] for way in ways))
    labels = iter(right)
    return [tuple(next(labels) for _ in ends) for _, _, ends in found]
