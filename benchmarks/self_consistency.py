"""Self-consistency beside its_hub and optillm: a question at a time, many samples of it, and their vote.

its_hub asks through an adapter of ours that puts all samples of a question into one batch of `generate`; as it comes it
asks for each by itself. optillm, which takes one sample a request, is told as it is.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import its_hub
import torch
from its_hub.api import AbstractLanguageModel, AbstractOrchestrator

from benchmarks.course import questions
from benchmarks.generate import generate
from benchmarks.limit import decoding_seconds
from benchmarks.models import Setting
from benchmarks.pairs import OURS, Figures, Ratio, Side, Work, interleave
from harness import Problem, Run
from harness.contracts import Message, Model
from harness.toolbox import final_answer
from harness_test_time.self_consistency import SelfConsistency
from harness_world import MAX_NEW_TOKENS

GOALS = {"tiny": 2.0, "smollm2": 1.5}
METHOD = SelfConsistency(samples=16)
ITS_HUB, OPTILLM = "its_hub", "optillm"


class Generator(AbstractLanguageModel):  # type: ignore[misc]
    """A model of ours behind its_hub's contract, sampled from with `generate`."""

    def __init__(self, model: Model, longest: int) -> None:
        self.model, self.longest = model, longest

    async def agenerate(self, messages: Any, stop: str | None = None, **_: Any) -> Any:
        """One reply to each conversation, in one batch."""
        del stop
        prompts = [self.model.encode_prompt([turn.to_dict() for turn in turns]) for turns in messages]
        drawn = generate(self.model, prompts, 1, METHOD.temperature, self.longest)
        return [{"role": "assistant", "content": self.model.decode(tokens)} for [tokens] in drawn]


class OneBatch(AbstractOrchestrator):  # type: ignore[misc]
    """Asks for all conversations at once."""

    async def agenerate(self, lm: Any, messages_lst: Any, stop: str | None = None, **_: Any) -> Any:
        """The replies, in order."""
        return await lm.agenerate(messages_lst, stop)


class Client:
    """What optillm needs of an OpenAI client: `chat.completions.create`, one sample a request."""

    def __init__(self, model: Model, longest: int) -> None:
        self.model, self.longest = model, longest
        self.chat = SimpleNamespace(completions=self)

    def create(self, *, messages: Sequence[Message], temperature: float, **_: Any) -> SimpleNamespace:
        """One reply."""
        prompt = self.model.encode_prompt([turn for turn in messages if turn["content"]])
        [[tokens]] = generate(self.model, [prompt], 1, temperature, self.longest)
        message = SimpleNamespace(content=self.model.decode(tokens))
        choice = SimpleNamespace(message=message, finish_reason="stop")
        return SimpleNamespace(choices=[choice], usage=SimpleNamespace(completion_tokens=len(tokens)))


def optillm_approach() -> Any:
    """The self-consistency of optillm, None where it is not installed.

    Its package is a server that wants 36 others, of which this approach needs none: the package itself is left out.
    """
    spec = importlib.util.find_spec(OPTILLM)
    if spec is None:
        return None
    package = ModuleType(OPTILLM)
    package.__path__ = list(spec.submodule_search_locations or ())
    package.conversation_logger = None  # type: ignore[attr-defined]
    sys.modules[OPTILLM] = package
    return importlib.import_module("optillm.self_consistency").AdvancedSelfConsistency


class Contest:
    """The sides, each of which answers all questions one by one."""

    def __init__(self, setting: Setting, approach: Any) -> None:
        self.approach = approach
        self.model, self.longest = setting.model, setting.scaled(MAX_NEW_TOKENS, 64, 8)
        self.problems: Sequence[Problem] = questions(setting.scaled(8, 2, 1))
        self.tokens: list[int] = []
        self.steps: list[int] = []
        self.seed = 0

    def ours(self) -> Work:
        """The method, as the harness asks it."""
        self.seed += 1
        runs = [Run(self.seed, problem_id=p.id, max_new_tokens=self.longest) for p in self.problems]

        def work() -> float:
            for run, problem in zip(runs, self.problems, strict=True):
                answer = METHOD.answer(self.model, problem.prompt, run)
                self.tokens.append(run.ledger.own_tokens)
                self.steps.append(max(len(c.tokens) for c in answer.completions))
            return len(self.problems)

        return work

    def its_hub(self) -> Work:
        """Its vote over what we read as an answer."""
        torch.manual_seed(self.seed)
        voter = its_hub.SelfConsistency(lambda text: final_answer(text) or "", orchestrator=OneBatch())
        speaker = Generator(self.model, self.longest)

        def work() -> float:
            for problem in self.problems:
                voter.infer(speaker, problem.prompt, METHOD.samples)
            return len(self.problems)

        return work

    def optillm(self) -> Work:
        """Its clusters of similar texts."""
        torch.manual_seed(self.seed)
        voter = self.approach(Client(self.model, self.longest), "", METHOD.samples)

        def work() -> float:
            for problem in self.problems:
                voter.evaluate("", problem.prompt)
            return len(self.problems)

        return work


def measure(setting: Setting) -> dict[str, Figures]:
    """A vote of 16 on a few questions."""
    contest = Contest(setting, optillm_approach())
    sides: dict[str, Side] = {OURS: contest.ours, ITS_HUB: contest.its_hub}
    if contest.approach is not None:
        sides[OPTILLM] = contest.optillm
    seconds = interleave(sides, setting.pairs, setting.clock)
    counted = slice(len(contest.problems), None)  # without the round that warms up
    tokens, steps = (statistics.mean(numbers[counted]) for numbers in (contest.tokens, contest.steps))
    least = decoding_seconds(setting.model, tokens, steps + 1, METHOD.samples)
    beside = "optillm is not installed: `make peers` does it"
    if OPTILLM in seconds:
        beside = f"against optillm, one request a sample: {Ratio.of(seconds[OPTILLM], seconds[OURS])}"
    figures = Figures.of(
        f"question with {METHOD.samples} samples",
        seconds,
        ITS_HUB,
        limit_share=least / statistics.median(seconds[OURS]),
        at_least=GOALS[setting.kind],
        notes=(beside,),
    )
    return {"self-consistency": figures}
