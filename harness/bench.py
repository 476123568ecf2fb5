"""What a job works with: the store, the model, dataset and device that its spec names, and a desk to answer at."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import prepared
from harness import registry as registries
from harness.builtin.causal_lm import ADAPTER
from harness.contracts import Answer, Attacher, Completion, Dataset, Device, Message, Model, Preparer, Problem, Prompt
from harness.meter import BudgetSpentError, Run, Submit, derive_seed
from harness.plan import find_spec
from harness.samples import SharedSamples
from harness.store import Store
from harness.toolbox.exchange import Exchange
from harness.toolbox.prefixes import remembered
from harness.toolbox.reading import together
from harness.toolbox.sampling import SampleRequest, charge, draw

Progress = Callable[[dict[str, Any]], None]
WIDTH = 512
"""Questions answered side by side."""


def timed(device: Device, work: Callable[[], object]) -> float:
    """Seconds that `work` takes, the device synchronised on both sides."""
    device.synchronize()
    started = time.perf_counter()
    work()
    device.synchronize()
    return time.perf_counter() - started


@dataclass
class Bench:
    """What a job works with: its spec, the store, and the registered things that the spec names."""

    spec: dict[str, Any]
    store: Store
    registry: registries.Registry
    device: Device
    dataset: Dataset

    @classmethod
    def open(cls, spec: dict[str, Any]) -> Bench:
        """Open the store and load the dataset that the spec names."""
        registry = registries.load()
        device = registry.spec("devices", spec["device"]).make()
        dataset = find_spec(registry, "datasets", spec["dataset"]["name"]).load()
        return cls(spec, Store(Path(spec["store"])), registry, device, dataset)

    def method(self, part: Mapping[str, Any]) -> Any:
        """The method with the hyper-parameters that the spec gives it."""
        return registries.build_method(self.registry.method(part["name"]), part["config"])

    def model(self, stage: str | None) -> Model:
        """The checkpoint of a stage; None is the base model."""
        spec = find_spec(self.registry, "models", self.spec["model"]["name"])
        model: Model = spec.load(self.device)
        if stage is None:
            return model
        found = self.store.stage(stage)
        if found is None:
            msg = f"stage {stage[:12]} is not in the store"
            raise FileNotFoundError(msg)
        folder, facts = found
        model = model.restore(folder)
        if (folder / ADAPTER).is_dir():
            self._attacher(facts).attach(model, folder / ADAPTER)
        return model

    def _attacher(self, facts: Mapping[str, Any]) -> Attacher:
        """The method that made the adapter of a checkpoint: the last of its chain that can attach one."""
        while not isinstance(method := self.method({"name": facts["method"], "config": facts["config"]}), Attacher):
            start = self.store.stage(facts["start"]) if facts["start"] else None
            if start is None:
                msg = f"no stage up to {facts['method']} knows the adapter of its checkpoint"
                raise FileNotFoundError(msg)
            facts = start[1]
        return method

    def open_model(self, name: str) -> Model:
        """Another model by name, on the same device."""
        loaded: Model = find_spec(self.registry, "models", name).load(self.device)
        return loaded

    def seed(self, purpose: str) -> int:
        """Root seed of training, or of sampling at evaluation; the two are separate."""
        return derive_seed(purpose, self.spec["seed"])

    def problems(self) -> Sequence[Problem]:
        """The test problems that this job answers."""
        return list(self.dataset.test)[: self.spec["limit"]]


@dataclass
class Desk:
    """Answers questions with one method: holds the models, the scorer and the samples that are shared."""

    bench: Bench
    model: Model
    method: Any
    scorer: Any
    judge: Model
    shared: SharedSamples | None = None
    score_s: float = 0.0
    """Seconds in which the scorer worked."""
    scored: int = 0
    """Completions that it judged in them."""

    @classmethod
    def open(cls, bench: Bench, part: Mapping[str, Any]) -> Desk:
        """Load the policy, and the scorer where the pipeline has one."""
        policy, scorer = bench.spec["policy"], bench.spec["scorer"]
        model = bench.model(policy[-1] if policy else None)
        judge = bench.model(scorer["stage"]) if scorer and scorer["stage"] else model
        watcher = Run(0)  # counts nothing itself: the question at work pays for every forward pass
        for watched in (model,) if judge is model else (model, judge):
            watcher.watch(watched)
        return cls(bench, model, bench.method(part), bench.method(scorer["method"]) if scorer else None, judge)

    def sample(self, payloads: list[tuple[Run, Model, list[SampleRequest]]]) -> list[list[list[Completion]]]:
        """Draw what was asked for, from the shared samples where they hold it; the ledger is charged all the same."""
        asked = [(run, model, request) for run, model, requests in payloads for request in requests]
        drawn: dict[int, list[Completion]] = {}
        for model in {id(model): model for _, model, _ in asked}.values():
            for shared in (True, False):
                share = self.shared if shared and model is self.model else None
                places = [
                    place
                    for place, (_, other, request) in enumerate(asked)
                    if other is model and (request.begun == 0) is shared
                ]
                requests = [asked[place][2] for place in places]
                drawn.update(zip(places, share.draw(model, requests) if share else draw(model, requests), strict=True))
        for place, (run, model, request) in enumerate(asked):
            charge(run, model, request, drawn[place])
            if run.single is None and request.temperature == 1 and not request.begun and not request.stop:
                run.single = next((completion.text for completion in drawn[place]), None)
        in_order = iter(range(len(asked)))
        return [[drawn[next(in_order)] for _ in requests] for _, _, requests in payloads]

    def score(self, payloads: list[tuple[Run, str, list[Completion]]]) -> list[Any]:
        """Ask the scorer; what its model reads is booked on the question that asked."""
        if self.scorer is None:
            msg = "this pipeline has no scorer"
            raise LookupError(msg)

        def ask(payload: tuple[Run, str, list[Completion]]) -> Any:
            run, prompt, completions = payload
            with run.pays():
                return self.scorer.score(self.judge, prompt, completions, run)

        results: list[Any] = []
        self.score_s += timed(self.bench.device, lambda: results.extend(together(ask, payloads)))
        self.scored += sum(len(completions) for _, _, completions in payloads)
        return results

    def alone(self) -> Submit:
        """A way to have each request handled at once, by itself."""
        handlers: dict[str, Callable[[list[Any]], list[Any]]] = {"sample": self.sample, "score": self.score}
        return lambda kind, payload: handlers[kind]([payload])[0]

    def prepare(self) -> tuple[float, Run] | None:
        """Let the method look at train and dev; from now on it answers as what it has become.

        Returns the seconds and the run that this took, None for a method that does not prepare itself.
        """
        given, spec = self.method, self.bench.spec
        if not isinstance(given, Preparer):
            return None
        data = self.bench.dataset.training()
        run = Run(self.bench.seed("eval"), max_new_tokens=spec["dataset"]["max_new_tokens"], submit=self.alone())

        def work() -> None:
            self.method = given.prepare(self.model, data, run)

        with run.pays():
            seconds = timed(self.bench.device, work)
        return None if self.method is given else (seconds, run)

    def recall(self) -> bool:
        """Answer as what the method became when the answers were made, if that was kept: it need not look again."""
        record = self.bench.store.get("answers", self.bench.spec["answers"]) or {}
        kept = [facts.get("kept") for facts in record.get("training", ()) if facts["role"] == "preparation"]
        found = prepared.from_json(self.method, kept[0]) if kept else None
        self.method = self.method if found is None else found
        return found is not None

    def run_for(self, problem: Problem) -> Run:
        """A fresh run for one question."""
        spec = self.bench.spec
        return Run(
            self.bench.seed("eval"),
            budget=spec["question_tokens"],
            counts="sampled_tokens",
            problem_id=problem.id,
            max_new_tokens=spec["dataset"]["max_new_tokens"],
        )

    def answer(self, method: Any, problem: Problem, submit: Callable[[str, Any], Any]) -> tuple[Answer, Run]:
        """Answer one question. A budget that ends before any answer is an empty answer, which is wrong."""
        run = self.run_for(problem)
        run.submit = submit
        with run.pays():
            try:
                prompt = self.prompt(method, problem, run)
                run.single = None  # what was said before is no sample of the question
                return method.answer(self.model, prompt, run), run
            except BudgetSpentError:
                return Answer(""), run

    def prompt(self, method: Any, problem: Problem, run: Run) -> Prompt:
        """The question, or the conversation up to it, in which the earlier replies are the model's own."""
        said: list[Message] = []
        for content in problem.earlier:
            said.append({"role": "user", "content": content})
            said.append({"role": "assistant", "content": method.answer(self.model, tuple(said), run).text})
        return (*said, {"role": "user", "content": problem.prompt}) if said else problem.prompt

    def answer_all(
        self, work: Sequence[tuple[Any, Problem]], report: Callable[[Sequence[tuple[Answer, Run]]], None]
    ) -> list[tuple[Answer, Run]]:
        """Answer questions side by side, each with its method, their sampling batched.

        report: called with all that is done so far, whenever more is.
        """
        exchange = Exchange({"sample": self.sample, "score": self.score})
        done: list[tuple[Answer, Run]] = []
        for first in range(0, len(work), WIDTH):
            wave = work[first : first + WIDTH]
            with remembered():
                results = exchange.map(lambda item: self.answer(*item, exchange.submit), wave, width=WIDTH)
            done += [result.unwrap() for result in results]
            report(done)
        return done

    def answer_alone(self, method: Any, problem: Problem) -> tuple[Answer, Run]:
        """Answer one question by itself: the unit of latency."""
        with remembered():
            return self.answer(method, problem, self.alone())
