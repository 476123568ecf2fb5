"""One job of a run, inside a worker: train a stage, answer and verify the test problems, or time the answering.

Everything enters as JSON and leaves as records in the store, so a job can run in any process on any machine that sees
the results folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from typing import Any

from harness.bench import Bench, Desk, Progress, timed
from harness.builtin.devices import arithmetic_for
from harness.contracts import VIEWS, Answer, Model, Problem, TrainingData
from harness.meter import DivergedError, Run
from harness.paying import uncounted
from harness.plan import SCHEMA
from harness.records import fact, heading, is_right, preparation_facts, training_facts
from harness.rows import DataError
from harness.samples import SharedSamples
from harness.timing import time_answers
from harness.toolbox import completion_loss


def execute(spec: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Run one job and publish its record in the store; what is returned is a short note for the runner."""
    work = {"stage": train_stage, "answers": answer_problems, "timing": time_answers}[spec["kind"]]
    return work(Bench.open(spec), progress)


# -- training


def train_stage(bench: Bench, progress: Progress) -> dict[str, Any]:
    """Train one stage from its start and publish the checkpoint."""
    spec = bench.spec
    method, model = bench.method(spec["method"]), bench.model(spec["start"])
    before = model.fingerprint()
    run = Run(
        bench.seed("train"),
        budget=spec["train_tokens"],
        max_new_tokens=spec["dataset"]["max_new_tokens"],
        on_progress=Throttled(progress),
        open_model=bench.open_model,
    )
    data = bench.dataset.training()
    check_views(method, data, spec["dataset"]["name"])
    bench.device.seed(bench.seed("torch"))
    bench.device.reset_peak_memory()
    with arithmetic_for(model.size):
        known = [general_loss(model, before, spec["dataset"]["name"], data)]
        run.watch(model)
        with run.pays():  # rows that do not fit the context as well
            seconds = timed(bench.device, lambda: method.train(model, data, run))
        run.close()
        check_weights(model, before, spec["method"]["name"])
        known.append(loss_on(model, data.general_dev))
    facts = {
        "schema": SCHEMA,
        "kind": "stage",
        "key": spec["key"],
        "method": spec["method"]["name"],
        "config": spec["method"]["config"],
        "start": spec["start"],
        "seconds": seconds,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "general_loss": known,
        "ledger": dataclasses.asdict(run.ledger),
        "curve": run.curve,
        "stopped": run.stopped,
        "peak_memory_bytes": bench.device.peak_memory_bytes(),
        "machine": dict(bench.device.describe()),
    }
    bench.store.publish_stage(spec["key"], model.save, facts)
    return {"seconds": seconds, "tokens": run.ledger.total_tokens}


def check_views(method: Any, data: TrainingData, dataset: str) -> None:
    """A method that needs a view of the data must find it.

    Raises:
        DataError: it does not; the message names method, view and columns.
    """
    for view in getattr(method, "needs", ()):
        if view in VIEWS and not getattr(data, view):
            msg = f"{method.name} needs the view {view!r} (columns {VIEWS[view]}), which dataset {dataset} has not"
            raise DataError(msg)


GENERAL_LOSSES: dict[tuple[str, str], float | None] = {}
"""By fingerprint and dataset: a worker trains many stages from the same weights."""


def general_loss(model: Model, fingerprint: str, dataset: str, data: TrainingData) -> float | None:
    """`loss_on` the general dev texts of a dataset, measured once a process."""
    key = fingerprint, dataset
    if key not in GENERAL_LOSSES:
        GENERAL_LOSSES[key] = loss_on(model, data.general_dev)
    return GENERAL_LOSSES[key]


def loss_on(model: Model, texts: Sequence[tuple[str, str]]) -> float | None:
    """Mean loss in nats a token on (prompt, completion) texts, at nobody's cost; None where there are none."""
    if not texts:
        return None
    with uncounted():
        return completion_loss(model, texts, backward=False)


def check_weights(model: Model, before: str, name: str) -> None:
    """A stage must have changed some weight and left none that is not finite.

    Raises:
        DivergedError, ValueError: otherwise.
    """
    for parameter in model.parameters():
        if not bool(parameter.isfinite().all()):
            msg = f"{name} left weights that are not finite"
            raise DivergedError(msg)
    if model.fingerprint() == before:
        msg = f"{name} changed no weight: it had nothing to train on, or no budget"
        raise ValueError(msg)


# -- answering


def answer_problems(bench: Bench, progress: Progress) -> dict[str, Any]:
    """Answer every test problem, verify, and publish the facts."""
    spec, started = bench.spec, time.perf_counter()
    desk = Desk.open(bench, spec["method"])
    before = desk.model.fingerprint()
    # Not the stage keys alone: the weights themselves say whose samples these are.
    revision = spec["model"]["revision"]
    shared = SharedSamples(bench.store, hashlib.sha256(f"{revision}{before}{spec['seed']}".encode()).hexdigest())
    problems, training = bench.problems(), training_facts(bench)
    with arithmetic_for(desk.model.size):
        if prepared := desk.prepare():  # by samples of its own: its seconds are what it costs
            training.append(preparation_facts(desk, *prepared))
        desk.shared = shared
        answered, singles = answer_and_sample(desk, problems, progress)
    shared.publish()
    if desk.model.fingerprint() != before:
        msg = f"{spec['method']['name']} changed the weights while answering"
        raise ValueError(msg)
    rows = [fact(bench.dataset, *item, upper_bound=spec["row"]["upper_bound"]) for item in
            zip(problems, answered, singles, strict=True)]  # fmt: skip
    total = Run(0)
    for _, run in answered:
        total.ledger.add(run.ledger)
    record = {
        **heading(bench, "answers"),
        "answers": rows,
        "ledger": dataclasses.asdict(total.ledger),
        "training": training,
        "seconds": time.perf_counter() - started,
    }
    row = spec["row"]
    bench.store.publish("answers", f"{row['pipeline']}-seed{spec['seed']}", spec["key"], record)
    return {"accuracy": sum(r["correct"] for r in rows) / len(rows)}


def answer_and_sample(
    desk: Desk, problems: Sequence[Problem], progress: Progress
) -> tuple[list[tuple[Answer, Run]], list[str | None]]:
    """Answers, and beside them one sample at temperature 1 a problem.

    The sample is the first whole one that the method drew, or the method itself made to sample. The latter is run in
    turns with it, so that both read a prompt once.
    """
    method = desk.method
    if getattr(method, "temperature", None) == 0:
        twin = dataclasses.replace(method, temperature=1.0)
        work = [(m, problem) for problem in problems for m in (method, twin)]
        done = desk.answer_all(work, Tally(desk, work, progress))
        return done[::2], [answer.text for answer, _ in done[1::2]]
    work = [(method, problem) for problem in problems]
    answered = desk.answer_all(work, Tally(desk, work, progress))
    return answered, [run.single for _, run in answered]


class Tally:
    """Passes on how much of `work` is done, and how much of it the method at `desk` got right so far."""

    def __init__(self, desk: Desk, work: Sequence[tuple[Any, Problem]], progress: Progress) -> None:
        self.desk, self.work, self.progress = desk, work, progress
        self.right: list[bool] = []
        self.seen = 0

    def __call__(self, done: Sequence[tuple[Answer, Run]]) -> None:
        """Look at what was added to `done`."""
        dataset, upper_bound = self.desk.bench.dataset, self.desk.bench.spec["row"]["upper_bound"]
        for (method, problem), (answer, _) in zip(self.work[self.seen : len(done)], done[self.seen :], strict=True):
            if method is self.desk.method:
                self.right.append(is_right(dataset, problem, answer, upper_bound=upper_bound))
        self.seen = len(done)
        self.progress({"progress": len(done) / len(self.work), "accuracy": sum(self.right) / len(self.right)})


class Throttled:
    """Passes on progress at most a few times a second."""

    def __init__(self, progress: Progress, every_s: float = 0.3) -> None:
        self.progress, self.every_s, self.last = progress, every_s, 0.0

    def __call__(self, share: float) -> None:
        """Report the share that is done."""
        if (now := time.monotonic()) - self.last >= self.every_s:
            self.last = now
            self.progress({"progress": share})
