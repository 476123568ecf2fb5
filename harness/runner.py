"""The runner: plans a run, does what is missing from the store, and makes the boards.

Resume is the default because nothing else is possible: a job whose record is in the store is not planned again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from harness import boards
from harness.config import ConfigError, RunConfig
from harness.executors import Executor, Job, Outcome
from harness.executors.inline import Inline
from harness.executors.local import Local
from harness.files import explained, write_atomically
from harness.plan import Plan, PlannedJob, digest, make_plan, settled
from harness.progress import Reporter
from harness.registry import Registry
from harness.store import Store

TARGET = "harness.cell:execute"
MEMORY_SHARE = 0.8
"""Share of the machine's memory that all workers together may take."""
MOST_ATTEMPTS = 3
"""A job that failed so often is not tried again until `--fresh`."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    boards: dict[str, list[dict[str, Any]]]
    paths: list[Path]
    failed: int
    kept: int
    done: int


def run(config: RunConfig, registry: Registry, reporter: Reporter) -> Result:
    """Do a run and write its boards.

    Raises:
        ConfigError, RegistryError: the request makes no sense; nothing was run.
        StoreError: the results folder cannot be written; what was done before is intact.
        KeyboardInterrupt: passed on after the workers are stopped; what was done is kept.
    """
    device, config = choose_device(config.device, registry), settled(config, registry)
    plan = make_plan(config, registry, device)
    store = Store(config.out)
    if config.fresh:
        for kind in ("stage", "answers", "timing"):
            store.discard(kind, {job.key for job in plan.jobs if job.kind == kind})
        store.discard_samples()
    keys = register_cells(store.folder, plan, config)
    todo = missing(plan, store)
    kept = len(plan.jobs) - len(todo)
    failed = 0
    try:
        failed = perform(todo, store, config, reporter, kept)
    finally:
        made = boards.make_boards(store.folder, registry.specs("metrics"), keys=keys)
        paths = boards.write_boards(store.folder, made)
    return Result(made, paths, failed, kept, len(todo))


def choose_device(name: str, registry: Registry) -> str:
    """The device a run is on: the named one, or the first that this machine has."""
    if name != "auto":
        device = registry.spec("devices", name)
        if not device.make().available():
            msg = f"device {name!r} is not available on this machine: see `harness ls devices`"
            raise ConfigError(msg)
        return name
    found: str = next(spec.name for spec in registry.specs("devices") if spec.make().available())
    return found


def register_cells(folder: Path, plan: Plan, config: RunConfig) -> list[str]:
    """Note which cells the folder's board is made of; the keys of all of them.

    Runs of the same model, data and budgets add to one board; any other setting starts the board anew, while the
    records stay where they are. A method that was edited since replaces its former self.
    """
    settings = digest([config.model, config.dataset, config.limit, config.train_tokens, config.question_tokens])
    path = folder / "board.json"
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with explained(path), FileLock(folder / ".board.lock"):
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        cells = known.get("cells", {}) if known.get("settings") == settings else {}
        for job in plan.jobs:
            if job.kind != "stage":
                cells[f"{job.kind} {job.spec['row']['pipeline']} seed {job.spec['seed']}"] = job.key
        write_atomically(path, json.dumps({"settings": settings, "cells": cells}, indent=1).encode())
    return sorted(cells.values())


def board_keys(folder: Path) -> list[str]:
    """The keys of the cells that a folder's boards are made of.

    Raises:
        FileNotFoundError: the folder holds no results.
    """
    path = folder / "board.json"
    if not path.exists():
        msg = f"{folder} holds no results: it has no board.json"
        raise FileNotFoundError(msg)
    return sorted(json.loads(path.read_text(encoding="utf-8"))["cells"].values())


def missing(plan: Plan, store: Store) -> list[PlannedJob]:
    """The jobs that must be done: cells without a record, and the stages that these need and the store lacks."""
    done = set().union(*(store.keys(kind) for kind in ("stage", "answers", "timing")))
    needed: set[str] = set()
    for job in reversed(plan.jobs):
        if job.key not in done and (job.kind != "stage" or job.key in needed):
            needed.add(job.key)
            needed.update(job.after)
    return [job for job in plan.jobs if job.key in needed - done]


def perform(todo: Sequence[PlannedJob], store: Store, config: RunConfig, reporter: Reporter, kept: int) -> int:
    """Run jobs to the end; how many did not succeed."""
    jobs = {job.key: job for job in todo}
    poisoned = {key for key in jobs if attempts(store, key) >= MOST_ATTEMPTS}
    failed = 0
    with reporter:
        reporter.begin(todo, kept)
        executor = make_executor(config, store, reporter)
        try:
            for key in poisoned:
                reporter.end(jobs[key], poison(store, jobs[key]))
                failed += 1
            for job in sorted(runnable(todo, poisoned), key=urgency):
                executor.submit(as_job(job, set(jobs), store, config))
            for outcome in executor.as_completed():
                failed += outcome.status != "ok"
                record_attempt(store, jobs[outcome.key], outcome)
                reporter.end(jobs[outcome.key], outcome)
        finally:
            executor.close()
    return failed


def runnable(todo: Sequence[PlannedJob], poisoned: Iterable[str]) -> list[PlannedJob]:
    """What is left when poisoned jobs, and all that needs them, are taken out."""
    out = set(poisoned)
    left = []
    for job in todo:
        if job.key in out or out & set(job.after):
            out.add(job.key)
        else:
            left.append(job)
    return left


def urgency(job: PlannedJob) -> tuple[int, int]:
    """Stages first, as others wait for them; then answers, the largest draw first, so that the rest find theirs."""
    kinds = ("stage", "answers", "timing")
    samples = job.spec["method"]["config"].get("samples", 0)
    return kinds.index(job.kind), -samples if job.kind == "answers" else 0


def make_executor(config: RunConfig, store: Store, reporter: Reporter) -> Executor:
    """Worker processes, or this process itself for debugging."""
    if config.inline:
        return Inline(TARGET, on_progress=reporter.event)
    memory = int(MEMORY_SHARE * psutil.virtual_memory().total / config.jobs)
    return Local(
        TARGET,
        workers=config.jobs,
        memory_bytes=memory,
        on_progress=reporter.event,
        log_dir=store.folder / "logs",
    )


def as_job(job: PlannedJob, planned: set[str], store: Store, config: RunConfig) -> Job:
    """A planned job as executors know it. Cells of one checkpoint are one group: they share samples."""
    spec = {**job.spec, "key": job.key, "store": str(store.folder.resolve())}
    group = (job.spec["policy"] or ["base"])[-1] if job.kind == "answers" else ""
    return Job(
        key=job.key,
        spec=spec,
        exclusive=job.kind == "timing",
        group=f"{group}{job.spec['seed']}" if group else "",
        after=tuple(key for key in job.after if key in planned),
        timeout_s=config.timeout_s,
    )


def attempts(store: Store, key: str) -> int:
    """How often a job was tried and failed by itself."""
    return sum(a["status"] not in ("skipped", "cancelled", "poisoned") for a in store.attempts(key))


def record_attempt(store: Store, job: PlannedJob, outcome: Outcome) -> None:
    """Keep what is known of a job that did not succeed."""
    if outcome.status in ("ok", "cancelled"):
        return
    row = job.spec.get("row")
    spec = {**row, **identity(job)} if row else {"method": job.spec["method"]["name"], **identity(job)}
    store.attempt(
        {
            "kind": job.kind,
            "key": job.key,
            "spec": spec,
            "status": outcome.status,
            "reason": outcome.reason,
            "seconds": outcome.seconds,
            "log": outcome.log,
        }
    )


def identity(job: PlannedJob) -> dict[str, Any]:
    """What names a cell beside its row."""
    spec = job.spec
    return {
        "model": spec["model"]["name"],
        "dataset": spec["dataset"]["name"],
        "seed": spec["seed"],
        "limit": spec.get("limit"),
        "config": {spec["method"]["name"]: spec["method"]["config"]},
    }


def poison(store: Store, job: PlannedJob) -> Outcome:
    """The outcome of a job that failed too often to be tried again."""
    last = [a for a in store.attempts(job.key) if a["status"] != "poisoned"][-1]
    reason = f"failed {MOST_ATTEMPTS} times, last: {last['reason']}; --fresh tries again"
    outcome = Outcome(job.key, "poisoned", None, reason, 0.0, "")
    if store.attempts(job.key)[-1]["status"] != "poisoned":
        record_attempt(store, job, outcome)
    return outcome
