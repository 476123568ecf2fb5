"""The plan of 10,000 cells: 50 stages, each answered by 20 methods, with 10 seeds."""

from harness.config import RunConfig
from harness.contracts import DatasetSpec, ModelSpec
from harness.plan import make_plan
from harness.registry import MethodInfo, Registry

TRAINERS, ANSWERERS, SEEDS = 50, 20, 10


def info(name, verb, **fields):
    told = {"family": "test-time", "verbs": (verb,), "after": (), "needs": (), "models": (), "upper_bound": False}
    origin = {"source": name, "module": "m", "distribution": "d", "version": "1", "summary": ""}
    return MethodInfo(name=name, scales="", trains_policy=False, fields=fields, **told, **origin)


class OnlyNames(Registry):
    """A registry whose model and dataset need no plugin."""

    def spec(self, kind, name):
        if kind == "models":
            return ModelSpec(name, "", lambda device: None, lambda: "weights")
        return DatasetSpec(name, "", lambda: None, lambda: "rows", 32, 1000)


def test_plan(benchmark):
    trainers = [info(f"train-{i}", "train", lr=1e-3, batch_size=16) for i in range(TRAINERS)]
    answerers = [info(f"answer-{i}", "answer", samples=16, temperature=0.7) for i in range(ANSWERERS - 1)]
    greedy = info("greedy", "answer", temperature=0.0)
    others = {"models": {"m": ("", None)}, "datasets": {"d": ("", None)}}
    registry = OnlyNames((), {m.name: m for m in (greedy, *trainers, *answerers)}, others)
    asked = tuple(f"base > {t.name} + {a.name}" for t in trainers for a in (greedy, *answerers))
    config = RunConfig(pipelines=asked, model="m", dataset="d", seeds=tuple(range(SEEDS)))
    plan = benchmark(make_plan, config, registry, "cpu")
    assert sum(job.kind == "answers" for job in plan.jobs) == 10_000 + SEEDS  # and the base model itself
