"""Tree of Thoughts: grow a tree of steps, value its states, and go on from the best, by breadth or by depth.

Paper: Yao et al. 2023, arXiv:2305.10601. Breadth first is algorithm 1: of all k steps from each state of S_{t-1},
S_t holds the b states with the largest sum of V(s). Depth first is algorithm 2: the best child first, none with V(s)
below a threshold, and back. V(s) is the scorer's chance, or a vote of lookaheads. States with equal text are one.
A kept state that is finished keeps its place among the b. At the end all such vote on the answer, by their values.
Data: none; the scorer before it was trained, and must be able to judge a part of a solution. Cost: by breadth, T rounds
of at most b k steps and judgements, the first of k; in place of judgements a vote draws `votes` solutions a state.
Left out: prompts that propose, value and vote, which a small model cannot follow; V(s) kept for other questions.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from harness import Answer, BudgetSpentError, Completion, Model, Prompt, Run, hookimpl
from harness.toolbox import ROOT, carry, check_fields, final_answer, goes_on, grow, vote

MOST_EXPANSIONS = 100
"""Of one search by depth, as in sec. 4.3: where everything is pruned, it would go through the whole tree."""


@dataclass
class Tree:
    """What one search has found; a fresh one for each question."""

    model: Model
    prompt: Prompt
    run: Run
    temperature: float
    values: dict[Completion, float] = field(default_factory=dict)
    """V of every state, in the order drawn."""
    leaves: list[Completion] = field(default_factory=list)
    """States that were kept and do not go on."""
    rollouts: list[Completion] = field(default_factory=list)

    def grow(self, states: Sequence[Completion], n: int, *, whole: bool = False) -> list[list[Completion]]:
        found = (*self.values, *self.rollouts)
        return grow(self.model, self.prompt, self.run, states, n, self.temperature, whole=whole, found=found)


@dataclass(frozen=True)
class TreeOfThoughts:
    name: ClassVar[str] = "tree-of-thoughts"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft", "process-reward-model")
    needs: ClassVar[tuple[str, ...]] = ("scorer",)
    scales: ClassVar[str] = "width"
    search: str = "bfs"
    """`bfs`, by breadth, or `dfs`, by depth."""
    branching: int = 8
    """k: steps drawn from each state. The root is one state: of few first steps, all may be wrong."""
    width: int = 2
    """b: states kept at each depth; by depth, leaves after which the search ends. The paper's 5 in Game of 24."""
    evaluate: str = "value"
    """`value`: ask the scorer; `vote`: look ahead, and ask none."""
    votes: int = 4
    """Solutions drawn from each state, for `vote`."""
    threshold: float = 0.1
    """Least value of a state, for `dfs`."""
    temperature: float = 1.0
    """Sampling temperature; at 0 all steps from a state would be the same."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("search", self.search in {"bfs", "dfs"}, "bfs or dfs"),
            ("branching", self.branching >= 1, "at least 1"),
            ("width", self.width >= 1, "at least 1"),
            ("evaluate", self.evaluate in {"value", "vote"}, "value or vote"),
            ("votes", self.votes >= 1, "at least 1"),
            ("threshold", 0 <= self.threshold <= 1, "from 0 to 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or above"),
        )

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        tree = Tree(model, prompt, run, self.temperature)
        with contextlib.suppress(BudgetSpentError):
            (self.by_breadth if self.search == "bfs" else self.by_depth)(tree)
        return choice(tree)

    def by_breadth(self, tree: Tree) -> None:
        """Algorithm 1. A leaf takes a place for good, so that only states of one depth are compared."""
        states = [ROOT]
        while states:
            kept = self.expand(tree, states)[: self.width - len(tree.leaves)]
            tree.leaves += [state for state in kept if not goes_on(state)]
            states = [state for state in kept if goes_on(state)]

    def by_depth(self, tree: Tree) -> None:
        """Algorithm 2, its recursion as a stack: on top the best child, below it what to come back to."""
        stack, expansions = [ROOT], 0
        while stack and len(tree.leaves) < self.width and expansions < MOST_EXPANSIONS:
            if goes_on(state := stack.pop()):
                stack += [s for s in reversed(self.expand(tree, [state])) if tree.values[s] >= self.threshold]
                expansions += 1
            else:
                tree.leaves.append(state)

    def expand(self, tree: Tree, states: Sequence[Completion]) -> list[Completion]:
        """The children of all states, the best first; a tie goes to the first. What a limit cut off is worth 0."""
        children: dict[tuple[str, str], Completion] = {}
        for child in (one for of_state in tree.grow(states, self.branching) for one in of_state):
            children.setdefault((child.text, child.finish), child)
        tree.values.update(dict.fromkeys(children.values(), 0.0))
        if alive := [child for child in children.values() if child.finish != "length"]:
            by_vote = self.evaluate == "vote"
            values = self.vote_on(tree, alive) if by_vote else [s.total for s in tree.run.score(tree.prompt, alive)]
            tree.values.update(zip(alive, values, strict=True))
        return sorted(children.values(), key=tree.values.__getitem__, reverse=True)

    def vote_on(self, tree: Tree, states: Sequence[Completion]) -> list[float]:
        """Our stand-in for the paper's vote, where the model is shown all states and names the most promising one.

        Here it names it by solving: `votes` solutions are drawn from each state, the answer most of them end in is
        elected, and V is the share of a state's own that end in it. One without a rival is elected without a vote.
        """
        if len(states) == 1:
            return [1.0]
        ways = tree.grow(states, self.votes, whole=True)
        tree.rollouts += [way for of_one in ways for way in of_one]
        answers = [[final_answer(way.text) if way.finish == "eos" else None for way in of_one] for of_one in ways]
        shares: defaultdict[str, float] = defaultdict(float)
        for of_one in answers:
            for answer in filter(None, of_one):  # no answer is empty
                shares[answer] += 1 / len(of_one)  # a voice a state, however many solutions
        elected = max(shares, key=shares.__getitem__) if shares else ""  # a tie goes to the first
        return [of_one.count(elected) / len(of_one) for of_one in answers]


def choice(tree: Tree) -> Answer:
    """A vote of the finished leaves, by value; else of what else was finished; else the best state, carried on."""
    for drawn in (tree.leaves, list(tree.values), tree.rollouts):
        if solutions := [state for state in drawn if state.finish == "eos"]:
            weights = {state: tree.values.get(state, 1.0) for state in solutions}
            ranked = sorted(solutions, key=weights.__getitem__, reverse=True)  # the text is that of the best
            return Answer(vote(ranked, [weights[state] for state in ranked]).text, tuple(solutions))
    judged = [(value, state) for state, value in tree.values.items()]
    if tree.run.budget is None or not (best := carry(tree.model, tree.prompt, tree.run, judged, tree.temperature)):
        best = max(tree.leaves or tree.values, key=tree.values.__getitem__)  # without a budget, all else was given up
    return Answer(best.text, (best,))


@hookimpl
def harness_methods() -> list[type]:
    return [TreeOfThoughts]
