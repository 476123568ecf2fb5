"""One job of a run, inside a worker: train a stage, answer and verify the test problems, or time the answering.

Everything enters as JSON and leaves as records in the store, so a job can run in any process on any machine that sees
the results folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from harness.bench import Bench, Desk, Progress
from harness.builtin.devices import arithmetic_for
from harness.contracts import VIEWS, Answer, Dataset, Device, Model, Problem, TrainingData
from harness.meter import DivergedError, Run, uncounted
from harness.plan import SCHEMA
from harness.rows import DataError
from harness.samples import SharedSamples
from harness.toolbox import completion_loss

TIMED_QUESTIONS = 16
THROUGHPUT_QUESTIONS = 32
WARM_UP_QUESTIONS = 2


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
    desk.shared = SharedSamples(bench.store, hashlib.sha256(f"{revision}{before}{spec['seed']}".encode()).hexdigest())
    problems = bench.problems()
    with arithmetic_for(desk.model.size):
        answered, singles = answer_and_sample(desk, problems, progress)
    desk.shared.publish()
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
        "training": training_facts(bench),
        "seconds": time.perf_counter() - started,
    }
    row = spec["row"]
    bench.store.publish("answers", f"{row['pipeline']}-seed{spec['seed']}", spec["key"], record)
    return {"accuracy": sum(r["correct"] for r in rows) / len(rows)}


def answer_and_sample(
    desk: Desk, problems: Sequence[Problem], progress: Progress
) -> tuple[list[tuple[Answer, Run]], list[str | None]]:
    """Answers, and beside them one sample at temperature 1 a problem.

    The sample is the first that the method drew, or the method itself made to sample. The latter is run in turns with
    it, so that both read a prompt once.
    """
    method = desk.method
    temperature = getattr(method, "temperature", None)
    if temperature == 0:
        twin = dataclasses.replace(method, temperature=1.0)
        work = [(m, problem) for problem in problems for m in (method, twin)]
        done = desk.answer_all(work, Tally(desk, work, progress))
        return done[::2], [answer.text for answer, _ in done[1::2]]
    work = [(method, problem) for problem in problems]
    answered = desk.answer_all(work, Tally(desk, work, progress))
    if temperature == 1:
        return answered, [answer.completions[0].text if answer.completions else None for answer, _ in answered]
    return answered, [None] * len(problems)


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


def is_right(dataset: Dataset, problem: Problem, answer: Answer, *, upper_bound: bool) -> bool:
    """Whether the answer is right, or for an upper bound any of its completions."""
    texts = [completion.text for completion in answer.completions] if upper_bound else [answer.text]
    return any(dataset.verify(problem, text)[0] for text in texts)


def fact(
    dataset: Dataset, problem: Problem, answered: tuple[Answer, Run], single: str | None, *, upper_bound: bool
) -> dict[str, Any]:
    """What is recorded of one question."""
    answer, run = answered
    verdicts = [dataset.verify(problem, c.text)[0] for c in answer.completions]
    extracted = dataset.verify(problem, answer.text)[1]
    scores: Sequence[float | None] = answer.scores or [None] * len(verdicts)
    finishes = [c.finish for c in answer.completions if c.text == answer.text] or ["eos"]
    ledger = run.ledger
    return {
        "id": problem.id,
        "correct": is_right(dataset, problem, answer, upper_bound=upper_bound),
        "extracted": extracted,
        "text": answer.text,
        "finish": finishes[0],
        "sampled_correct": None if single is None else dataset.verify(problem, single)[0],
        "prompt_tokens": ledger.prompt_tokens,
        "sampled_tokens": ledger.sampled_tokens,
        "scored_tokens": ledger.scored_tokens,
        "flops": ledger.flops,
        "samples": [{"correct": c, "score": s} for c, s in zip(verdicts, scores, strict=True)],
    }


def training_facts(bench: Bench) -> list[dict[str, Any]]:
    """What the stages behind this cell cost, the scorer's included, without their curves."""
    scorer = bench.spec["scorer"]
    roles = dict.fromkeys(bench.spec["policy"], "policy")
    if scorer and scorer["stage"]:
        roles.setdefault(scorer["stage"], "scorer")
    found = [(role, stage[1]) for key, role in roles.items() if (stage := bench.store.stage(key))]
    kept = ("method", "key", "seconds", "ledger", "peak_memory_bytes", "trainable_parameters", "general_loss")
    return [{"role": role, **{k: facts.get(k) for k in kept}} for role, facts in found]


def heading(bench: Bench, kind: str) -> dict[str, Any]:
    """The part that every record of a cell begins with."""
    spec = bench.spec
    return {
        "schema": SCHEMA,
        "kind": kind,
        "key": spec["key"],
        "spec": row_spec(spec),
        "status": "ok",
        "reason": None,
        "machine": dict(bench.device.describe()),
    }


def row_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a cell on a board."""
    scorer = spec["scorer"]
    config = {part["name"]: part["config"] for part in [spec["method"], *([scorer["method"]] if scorer else [])]}
    return {
        **spec["row"],
        "model": spec["model"]["name"],
        "dataset": spec["dataset"]["name"],
        "seed": spec["seed"],
        "limit": spec["limit"],
        "config": config,
    }


# -- timing


def timed(device: Device, work: Callable[[], object]) -> float:
    """Seconds that `work` takes, the device synchronised on both sides."""
    device.synchronize()
    started = time.perf_counter()
    work()
    device.synchronize()
    return time.perf_counter() - started


def time_answers(bench: Bench, progress: Progress) -> dict[str, Any]:
    """Latency one question at a time, greedy beside it in turns, then throughput; no sample is shared."""
    desk = Desk.open(bench, bench.spec["method"])
    with arithmetic_for(desk.model.size):
        latency, baseline = time_alone(desk, bench.method(bench.spec["baseline"]), progress)
        many = bench.problems()[:THROUGHPUT_QUESTIONS]
        work = [(desk.method, problem) for problem in many]
        throughput = timed(bench.device, lambda: desk.answer_all(work, lambda _: None))
        head = heading(bench, "timing")
    record = {
        **head,
        "latency_s": latency,
        "greedy_latency_s": baseline,
        "throughput_s": throughput,
        "throughput_questions": len(many),
        "peak_memory_bytes": bench.device.peak_memory_bytes(),
    }
    row = bench.spec["row"]
    bench.store.publish("timing", f"{row['pipeline']}-seed{bench.spec['seed']}", bench.spec["key"], record)
    return {"p50_s": sorted(latency)[len(latency) // 2]}


def time_alone(desk: Desk, greedy: Any, progress: Progress) -> tuple[list[float], list[float]]:
    """Seconds a question, by the method and by greedy decoding in turns, after a warm-up of both.

    A method that is greedy decoding is timed once.
    """
    device, problems = desk.bench.device, desk.bench.problems()
    methods = [desk.method] if desk.method == greedy else [desk.method, greedy]
    for problem in problems[:WARM_UP_QUESTIONS]:
        for method in methods:
            desk.answer_alone(method, problem)
    device.reset_peak_memory()
    seconds: list[list[float]] = [[] for _ in methods]
    for number, problem in enumerate(problems[:TIMED_QUESTIONS]):
        for of_method, method in zip(seconds, methods, strict=True):
            of_method.append(timed(device, partial(desk.answer_alone, method, problem)))
        progress({"progress": 0.7 * (number + 1) / TIMED_QUESTIONS})
    return seconds[0], seconds[-1]


class Throttled:
    """Passes on progress at most a few times a second."""

    def __init__(self, progress: Progress, every_s: float = 0.3) -> None:
        self.progress, self.every_s, self.last = progress, every_s, 0.0

    def __call__(self, share: float) -> None:
        """Report the share that is done."""
        if (now := time.monotonic()) - self.last >= self.every_s:
            self.last = now
            self.progress({"progress": share})
