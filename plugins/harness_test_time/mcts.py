"""Monte Carlo tree search over steps: descend to where value and curiosity point, judge, and tell the whole path.

Papers: RAP, Hao et al. 2023, arXiv:2305.14992, sec. 3.2 (UCT); AlphaZero, Silver et al. 2017, arXiv:1712.01815 (PUCT).
A simulation descends from the root to a leaf, each time to the child with the largest bound; grows k steps from a leaf
that was visited before, and enters one; values it by v, the scorer's chance; and tells the whole path: N += 1, W += v,
Q = W / N. An unvisited child has its parent's Q. P is the softmax of the steps' mean log-probabilities a token: length
does not decide. Steps with equal text are one child. What a limit cut off is worth 0. A finished leaf may be visited
again, at no cost; the search ends where nothing else is left. All solutions drawn then vote, by their chances.
Data: none; the scorer before it was trained. Cost: a simulation draws at most k steps and a solution, and asks for one
judgement; they come one after another. Solutions that were never visited are judged at the end.
Left out: RAP's rewards of single steps and its prompts; AlphaZero's noise at the root and its choice by visits.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import ClassVar

from harness import Answer, BudgetSpentError, Completion, Model, Prompt, Run, hookimpl
from harness.toolbox import ROOT, carry, check_fields, goes_on, grow, judge, vote


@dataclass(eq=False)
class Node:
    """A partial solution in the tree, with its P, N and W."""

    branch: Completion
    prior: float = 1.0
    visits: int = 0
    worth: float = 0.0
    children: list[Node] = field(default_factory=list)
    exhausted: bool = False
    """Whether nothing new can be found below."""

    def expand(self, steps: list[Completion]) -> None:
        """Give a leaf its children, equal ones once, with their priors."""
        branches: dict[tuple[str, str], Completion] = {}
        for branch in steps:
            branches.setdefault((branch.text, branch.finish), branch)
        logprobs = [branch.logprobs[len(self.branch.logprobs) :] for branch in branches.values()]
        means = [sum(of_step) / max(1, len(of_step)) for of_step in logprobs]
        odds = [math.exp(mean - max(means)) for mean in means]
        self.children = [Node(branch, each / sum(odds)) for branch, each in zip(branches.values(), odds, strict=True)]


@dataclass
class Tree:
    """What one search has found; a fresh one for each question."""

    model: Model
    prompt: Prompt
    run: Run
    root: Node = field(default_factory=lambda: Node(ROOT))
    solutions: list[Completion] = field(default_factory=list)
    """All that were finished, in the order drawn; equal ones are a vote each, as equal samples are."""
    known: dict[tuple[int, ...], tuple[float, Completion]] = field(default_factory=dict)

    def grow(self, branch: Completion, n: int, temperature: float, *, whole: bool = False) -> list[Completion]:
        """Branches from one that goes on."""
        [grown] = grow(self.model, self.prompt, self.run, [branch], n, temperature, whole=whole, found=self.solutions)
        self.solutions += [longer for longer in grown if longer.finish == "eos"]
        return grown


@dataclass(frozen=True)
class MCTS:
    name: ClassVar[str] = "mcts"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft", "process-reward-model")
    needs: ClassVar[tuple[str, ...]] = ("scorer",)
    scales: ClassVar[str] = "simulations"
    simulations: int = 16
    """Descents from the root; fewer where the budget or the tree ends before."""
    branching: int = 4
    """k: steps drawn from a leaf that is expanded."""
    exploration: float = 1.0
    """c, in units of the value, which is a chance; RAP's 1."""
    select: str = "puct"
    """`puct` or `uct`."""
    evaluate: str = "rollout"
    """`rollout` judges a solution drawn from the leaf; `score` the leaf itself, whose chance falls with its depth."""
    temperature: float = 1.0
    """Sampling temperature; at 0 all steps from a leaf would be the same."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("simulations", self.simulations >= 1, "at least 1"),
            ("branching", self.branching >= 1, "at least 1"),
            ("exploration", 0 <= self.exploration < math.inf, "0 or above"),
            ("select", self.select in {"puct", "uct"}, "puct or uct"),
            ("evaluate", self.evaluate in {"rollout", "score"}, "rollout or score"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or above"),
        )

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        tree = Tree(model, prompt, run)
        self.search(tree)
        if not tree.solutions:  # the most visited leaf, carried to its end if tokens are left
            node = tree.root
            while node.children:
                node = max(node.children, key=lambda child: child.visits)
            best = carry(model, prompt, run, [(0.0, node.branch)], self.temperature) or node.branch
            return Answer(best.text, (best,))
        judged = judge(run, prompt, tree.solutions, tree.known)
        chances, ranked = zip(*sorted(judged, key=lambda item: -item[0]), strict=True)
        return Answer(vote(ranked, chances).text, tuple(tree.solutions))  # visits tell but where was searched

    def search(self, tree: Tree) -> None:
        with contextlib.suppress(BudgetSpentError):
            tree.root.expand(tree.grow(ROOT, self.branching, self.temperature))
            while tree.root.visits < self.simulations and not tree.root.exhausted:
                self.simulate(tree)

    def simulate(self, tree: Tree) -> None:
        path = [tree.root]
        while (node := path[-1]).children or (node.visits and goes_on(node.branch)):
            if not node.children:
                node.expand(tree.grow(node.branch, self.branching, self.temperature))
            path.append(self.best_child(node))
        branch = node.branch
        if self.evaluate == "rollout" and goes_on(branch):
            [branch] = tree.grow(branch, 1, self.temperature, whole=True)
        value = 0.0 if branch.finish == "length" else judge(tree.run, tree.prompt, [branch], tree.known)[0][0]
        for node in reversed(path):
            node.visits += 1
            node.worth += value
            node.exhausted = all(c.exhausted for c in node.children) if node.children else not goes_on(node.branch)

    def best_child(self, parent: Node) -> Node:
        """The child with the largest bound, of PUCT or UCT; a tie goes to the first."""
        visits = max(1, parent.visits)  # the root's are 0 at first, and P decides all the same

        def bound(child: Node) -> float:
            known = child if child.visits else parent
            q = known.worth / max(1, known.visits)
            if self.select == "puct":
                return q + self.exploration * child.prior * math.sqrt(visits) / (1 + child.visits)
            return q + self.exploration * math.sqrt(math.log(visits) / max(1, child.visits))

        return max(parent.children, key=bound)


@hookimpl
def harness_methods() -> list[type]:
    return [MCTS]
