"""The plan: pipelines x seeds become cells, and cells a graph of jobs in which no stage is trained twice.

A job is plain JSON. Its key is a sha256 over everything that shapes its result, so the same work always has the same
key: whatever is in the store under that key need not be done again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.builtin import datasets, models
from harness.config import BASE, DEFAULT_ANSWER, ConfigError, RunConfig, convert, parse_option, parse_pipeline
from harness.registry import MethodInfo, Registry, build_method, find

SCHEMA = 1
SCORER = "scorer"


@dataclass(frozen=True)
class Pipeline:
    """Methods in order: policy stages, perhaps a scorer, and the method that answers."""

    stages: tuple[str, ...]
    scorer: str | None
    answer: str
    width: int | None = None
    """Of a point on a curve: what the field that the answering method `scales` by is set to."""

    @property
    def method(self) -> str:
        """The method the row is about: what answers, or else what trained last."""
        if self.answer != DEFAULT_ANSWER or not self.stages:
            return self.answer
        return self.stages[-1]

    @property
    def start(self) -> Pipeline | None:
        """What the row is compared with: the same checkpoint answering greedily, or the checkpoint trained from."""
        if self.answer != DEFAULT_ANSWER:
            return Pipeline(self.stages, None, DEFAULT_ANSWER)
        return Pipeline(self.stages[:-1], None, DEFAULT_ANSWER) if self.stages else None

    def label(self, options: Mapping[str, Mapping[str, Any]], registry: Registry) -> str:
        """The canonical expression, with the options that are not the default; it parses back to this pipeline.

        Where what trained last is a scorer as well, it stands for its pipelines as a scorer too: see `resolve`.
        """

        def named(name: str) -> str:
            changed = ", ".join(f"{k}={v}" for k, v in sorted(options.get(name, {}).items()))
            return f"{name}({changed})" if changed else name

        # A first stage that declares what it comes after would otherwise be read as coming after that.
        first = [] if self.stages and not registry.method(self.stages[0]).after else [BASE]
        scorer = [named(self.scorer)] if self.scorer else []
        head = " > ".join([*first, *map(named, self.stages), *scorer])
        if self.width is not None:
            options = {**options, self.answer: scaled(registry.method(self.answer), options, self.width)}
        plain = self.answer == DEFAULT_ANSWER and not options.get(self.answer)
        return head if plain else f"{head} + {named(self.answer)}"


@dataclass(frozen=True)
class PlannedJob:
    """One unit of work: train a stage, answer the test problems, or time the answering."""

    kind: str  # "stage", "answers" or "timing"
    key: str
    spec: dict[str, Any]
    after: tuple[str, ...] = ()
    """Keys of the stages it needs."""


def resolve(text: str, registry: Registry) -> list[Pipeline]:
    """Pipelines that an expression stands for. More than one where a scorer alone is named, or any scorer will do.

    What trains a policy and scores, and stands last with no answer named, is both: the policy's row is the first.

    Raises:
        ConfigError: the order makes no sense.
        RegistryError: a name is unknown.
    """
    expression = parse_pipeline(text)
    infos = [registry.method(name) for name in expression.stages]
    answer = registry.method(expression.answer) if expression.answer else None
    if len(infos) == 1 and answer is None and "answer" in infos[0].verbs:
        infos, answer = [], infos[0]
    if not expression.from_base:
        [first, *_] = infos or ([answer] if answer else [])
        infos = [registry.method(name) for name in first.after] + infos
    policy, scorers = _roles(infos, asked=answer is None or SCORER in answer.needs)
    _check(text, policy, scorers, answer)
    stages = tuple(info.name for info in policy)
    if answer is not None and SCORER not in answer.needs:
        return [Pipeline(stages, None, answer.name)]
    plain = Pipeline(tuple(info.name for info in infos), None, find(DEFAULT_ANSWER, registry.methods, "method"))
    if answer is None and not scorers:
        return [plain]
    answers = [answer] if answer else [i for i in registry.methods.values() if takes_any_scorer(i, registry)]
    judges = scorers or [i for i in registry.methods.values() if "score" in i.verbs]
    found = [Pipeline(stages, judge.name, a.name) for a in answers for judge in judges]
    if answer is None and scorers[0].trains_policy:
        found.insert(0, plain)
    if not found:
        msg = f"pipeline {text!r} needs a scorer and none is installed: see `harness ls methods`"
        raise ConfigError(msg)
    return found


def takes_any_scorer(info: MethodInfo, registry: Registry) -> bool:
    """Whether a method answers by a scorer, and names none that it comes after by default."""
    _, own = _roles([registry.methods[name] for name in info.after if name in registry.methods], asked=True)
    return SCORER in info.needs and not own


def _roles(infos: Sequence[MethodInfo], *, asked: bool) -> tuple[list[MethodInfo], list[MethodInfo]]:
    """Policy stages and scorers. What can be both is a scorer as the last stage alone, where one is `asked` for."""
    policy, scorers = list[MethodInfo](), list[MethodInfo]()
    for place, info in enumerate(infos, 1):
        as_policy = info.trains_policy and not (asked and place == len(infos))
        (scorers if "score" in info.verbs and not as_policy else policy).append(info)
    return policy, scorers


def _check(text: str, policy: Sequence[MethodInfo], scorers: Sequence[MethodInfo], answer: MethodInfo | None) -> None:
    problem = ""
    if len(scorers) > 1:
        problem = f"holds more than one scorer: {' and '.join(info.name for info in scorers)}"
    elif answer is not None and "answer" not in answer.verbs:
        problem = f"{answer.name} cannot answer, it can {' and '.join(answer.verbs)}"
    elif answer is not None and scorers and SCORER not in answer.needs:
        problem = f"{answer.name} uses no scorer, {scorers[0].name} would be trained for nothing"
    else:
        wrong = [info.name for info in policy if "train" not in info.verbs]
        problem = f"{wrong[0]} does not train: put it after a +" if wrong else ""
    if problem:
        msg = f"pipeline {text!r}: {problem}"
        raise ConfigError(msg)


def pipelines(config: RunConfig, registry: Registry) -> list[Pipeline]:
    """Every pipeline of a run, each one's start before it, none twice."""
    found: dict[Pipeline, None] = {}
    for text in config.pipelines or tuple(registry.methods):
        for pipeline in resolve(text, registry):
            chain = [pipeline]
            while (start := chain[-1].start) is not None:
                chain.append(start)
            found.update(dict.fromkeys(reversed(chain)))
    points = [point for pipeline in found for point in curve(pipeline, config, registry)]
    if config.curve and not points:
        msg = f"--curve {','.join(map(str, config.curve))}: no method asked for can be given one of these widths"
        raise ConfigError(msg)
    return [*found, *points]


def curve(pipeline: Pipeline, config: RunConfig, registry: Registry) -> list[Pipeline]:
    """The pipeline with each of the widths that its answering method can be given, its own width left out."""
    info = registry.method(pipeline.answer)
    points = []
    for width in config.curve if info.scales else ():
        fields = {**info.fields, **config.options.get(info.name, {})}
        with contextlib.suppress(ValueError):  # six beams cannot be shared by four
            build_method(info, {**fields, info.scales: width})
            points += [dataclasses.replace(pipeline, width=width)] if fields[info.scales] != width else []
    return points


def scaled(info: MethodInfo, options: Mapping[str, Mapping[str, Any]], width: int) -> dict[str, Any]:
    """What is changed of an answering method that is given this width."""
    changed = {**options.get(info.name, {}), info.scales: width}
    return {name: value for name, value in changed.items() if value != info.fields[name]}


def parse_options(texts: Sequence[str], registry: Registry) -> dict[str, dict[str, Any]]:
    """`method.field=value` texts, checked against the methods' fields and converted to their types.

    Raises:
        ConfigError: a field is unknown or a value does not convert.
        RegistryError: a method is unknown.
    """
    options: dict[str, dict[str, Any]] = {}
    for text in texts:
        method, name, value = parse_option(text)
        fields = registry.method(method).fields
        name = find(name, fields, f"field of {method}")
        converted = convert(value, fields[name], f"{method}.{name}")
        if converted != fields[name]:
            options.setdefault(method, {})[name] = converted
    return options


def check_options(options: Mapping[str, Mapping[str, Any]], registry: Registry) -> None:
    """Make each method that was given options, so that a value out of range ends the command before anything runs.

    Raises:
        ConfigError: a method refuses its values.
    """
    for name, changed in options.items():
        info = registry.method(name)
        try:
            build_method(info, {**info.fields, **changed})
        except ValueError as error:
            msg = f"-o {name}: {error}"
            raise ConfigError(msg) from None


def digest(parts: Any) -> str:
    """sha256 of JSON with sorted keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def find_spec(registry: Registry, kind: str, name: str) -> Any:
    """The model or dataset of that name: a registered one, a path of one's own, or an id on the hub.

    Raises:
        RegistryError: it is none of these.
    """
    if name in registry.others[kind]:
        return registry.spec(kind, name)
    own = models.find_model(name) if kind == "models" else datasets.find_dataset(name)
    return own or registry.spec(kind, name)  # which raises, with the nearest names


@dataclass(frozen=True)
class Plan:
    """The cells of a run as rows, and the jobs that make them, each after what it needs."""

    rows: tuple[str, ...]
    """Labels of the pipelines, in the order in which they were asked for."""
    jobs: tuple[PlannedJob, ...]


def settled(config: RunConfig, registry: Registry) -> RunConfig:
    """The request with what it left open as the dataset has it.

    Raises:
        ConfigError, RegistryError: there is no such dataset.
    """
    data = find_spec(registry, "datasets", config.dataset)
    return dataclasses.replace(
        config, limit=config.limit or data.limit, train_tokens=config.train_tokens or data.train_tokens
    )


def make_plan(config: RunConfig, registry: Registry, device: str) -> Plan:
    """Plan a run. `device` is the name of the device that it will run on.

    Raises:
        ConfigError, RegistryError: the request makes no sense.
    """
    config = settled(config, registry)
    model = find_spec(registry, "models", config.model)
    data = find_spec(registry, "datasets", config.dataset)
    world = {
        "schema": SCHEMA,
        "model": {"name": model.name, "revision": model.revision()},
        "dataset": {"name": data.name, "revision": data.revision(), "max_new_tokens": data.max_new_tokens},
        "device": device,
        "train_tokens": config.train_tokens,
    }
    wanted = pipelines(config, registry)
    planner = _Planner(config, registry, world)
    for seed in config.seeds:
        for pipeline in wanted:
            planner.add(pipeline, seed)
    jobs = (*planner.jobs.values(), *planner.timings.values())
    return Plan(tuple(p.label(config.options, registry) for p in wanted), jobs)


@dataclass(frozen=True)
class _Planner:
    config: RunConfig
    registry: Registry
    world: Mapping[str, Any]
    jobs: dict[str, PlannedJob] = dataclasses.field(default_factory=dict)
    timings: dict[str, PlannedJob] = dataclasses.field(default_factory=dict)

    def add(self, pipeline: Pipeline, seed: int) -> None:
        """Plan everything that one pipeline needs with one seed."""
        policy: list[str] = []
        for name in pipeline.stages:
            policy.append(self._stage(name, policy[-1] if policy else None, seed))
        after, scorer = list(policy), None
        if pipeline.scorer:
            trains = "train" in self.registry.method(pipeline.scorer).verbs
            stage = self._stage(pipeline.scorer, policy[-1] if policy else None, seed) if trains else None
            scorer = {"method": self._method(pipeline.scorer), "stage": stage}
            after += [stage] if stage else []
        work = {
            **self.world,
            "method": self._method(pipeline.answer, pipeline.width),
            "baseline": self._method(DEFAULT_ANSWER),
            "policy": policy,
            "scorer": scorer,
            "seed": seed,
            "limit": self.config.limit,
            "question_tokens": self.config.question_tokens,
        }
        kinds = (("answers", self.jobs), ("timing", self.timings))
        for kind, jobs in kinds if pipeline.width is None else kinds[:1]:
            # A point of a curve is a record of its own: one that is asked for as a row as well is found as that.
            key = digest([kind, work] if pipeline.width is None else [kind, work, "curve"])
            spec = {"kind": kind, **work, "row": self._row(pipeline), "answers": digest(["answers", work])}
            jobs[key] = PlannedJob(kind, key, spec, tuple(after))

    def _stage(self, name: str, start: str | None, seed: int) -> str:
        spec = {"kind": "stage", **self.world, "method": self._method(name), "start": start, "seed": seed}
        key = digest(spec)
        self.jobs[key] = PlannedJob("stage", key, spec, (start,) if start else ())
        return key

    def _method(self, name: str, width: int | None = None) -> dict[str, Any]:
        info = self.registry.method(name)
        config = {**info.fields, **self.config.options.get(name, {})}
        config |= {} if width is None else {info.scales: width}
        others = {field: find_spec(self.registry, "models", config[field]).revision() for field in info.models}
        return {"name": name, "config": config, "source": info.source, "version": info.version, "models": others}

    def _row(self, pipeline: Pipeline) -> dict[str, Any]:
        options = self.config.options
        family = self.registry.method(pipeline.method).family
        judge = self.registry.method(pipeline.scorer).family if pipeline.scorer else ""
        return {
            "pipeline": pipeline.label(options, self.registry),
            "method": pipeline.method,
            "family": family,
            "start": pipeline.start.label(options, self.registry) if pipeline.start else None,
            "control": "control" in (family, judge),
            "upper_bound": self.registry.method(pipeline.answer).upper_bound,
            "shows_scorer": takes_any_scorer(self.registry.method(pipeline.answer), self.registry),
            "scales": self.registry.method(pipeline.answer).scales,
            "curve": pipeline.width is not None,
        }
