"""`python -m benchmarks.growth`: how cost grows with samples, prompt, batch, problems and methods, over three decades.

Each line does the same work in four sizes, in turns, on the embedded world's base model. Beside a size stands the power
of the growth from the size before it: 1 is linear, below 1 some cost was shared. Only attention to a long prompt may
grow faster, as every token attends to all before it: its FLOPs stand beside it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from harness.boards import make_boards
from harness.builtin.causal_lm import CausalLM
from harness.builtin.devices import Cpu, arithmetic_for
from harness.builtin.metrics import harness_metrics
from harness.meter import forward_flops
from harness.store import Store
from harness.toolbox import SampleRequest, completion_loss, draw
from harness_world import HERE, load_world

ROUNDS = 3
SAMPLED = 32
"""Tokens that a sample may have."""
FEW = 10
"""Methods on the boards whose problems grow; those whose methods grow have ten times as many problems."""
LONG = 16_384
"""Context of the model whose prompt grows."""
Work = Callable[[], object]


@dataclass(frozen=True)
class Axis:
    """What grows, and what is done with so many of it."""

    name: str
    sizes: tuple[int, ...]
    ready: Callable[[int], Work]
    flops: Callable[[int], float] | None = None


@dataclass(frozen=True)
class Point:
    """The quickest of the rounds of one size."""

    size: int
    seconds: float
    power: float | None
    """Of the growth since the size before."""
    flops_power: float | None = None


def axes(model: CausalLM, scratch: Path) -> list[Axis]:
    """All lines of the table."""
    training = load_world("tiny-world", "test", "").training()
    prompts = [tuple(model.encode_prompt(problem.prompt)) for problem in training.problems]
    targets = [(problem.prompt, training.render_target(problem, True)) for problem in training.problems]
    patient = CausalLM.load(str(HERE / "base"), Cpu())
    patient.config.max_position_embeddings = patient.tokenizer.model_max_length = LONG

    def samples(count: int) -> Work:
        request = SampleRequest(prompts[0], tuple(range(count)), max_new_tokens=SAMPLED)
        return lambda: draw(model, [request])

    def prompt(length: int) -> Work:
        ids = [token for one in prompts for token in one][:length]
        return lambda: draw(patient, [SampleRequest(tuple(ids), (0,), max_new_tokens=1)])

    def batch(rows: int) -> Work:
        def gradient() -> None:
            completion_loss(model, targets[:rows])
            model.module.zero_grad()

        return gradient

    def answers(count: int) -> Work:
        asked = [SampleRequest(ids, (0,), max_new_tokens=SAMPLED) for ids in prompts[:count]]
        return lambda: draw(model, asked)

    def prompt_flops(length: int) -> float:
        return forward_flops(model.size, length, length * length // 2)

    return [
        Axis("samples of a prompt", (1, 10, 100, 1000), samples),
        Axis("tokens of a prompt", (16, 160, 1600, 16_000), prompt, prompt_flops),
        Axis("rows of a gradient", (1, 10, 100, 1000), batch),
        Axis("problems answered", (6, 60, 600, 6000), answers),
        Axis("problems on the boards", (10, 100, 1000, 10_000), lambda n: boards(scratch, FEW, n)),
        Axis("methods on the boards", (2, 20, 200, 2000), lambda n: boards(scratch, n, 10 * FEW)),
    ]


def boards(scratch: Path, methods: int, problems: int) -> Work:
    """Boards of so many pipelines with as many answers each, from a store that is filled beforehand."""
    folder, metrics = scratch / f"{methods}-{problems}", harness_metrics()
    if not folder.exists():
        store = Store(folder)
        for number in range(methods):
            store.publish("answers", f"m{number}", f"{number:08x}", record(f"m{number}", problems))
    return lambda: make_boards(folder, metrics)


def record(pipeline: str, problems: int) -> dict[str, Any]:
    """What a job that answered would have published."""
    toss = random.Random(pipeline)  # noqa: S311 - no secrets
    told = {"method": pipeline, "family": "test-time", "model": "m", "dataset": "d", "start": "m0", "config": {}}
    fact = {"extracted": "1", "finish": "eos", "sampled_tokens": 20, "flops": 1e6, "samples": []}
    answers = [{"id": f"p{place:05d}", "correct": toss.random() < 0.5, **fact} for place in range(problems)]  # noqa: PLR2004
    return {"spec": {"pipeline": pipeline, "seed": 0, **told}, "status": "ok", "answers": answers}


def measure(axis: Axis, rounds: int) -> list[Point]:
    """Its points: all sizes once a round, so that a slow minute of the machine falls on each of them."""
    works = {size: axis.ready(size) for size in axis.sizes}
    seconds: dict[int, list[float]] = {size: [] for size in axis.sizes}
    works[axis.sizes[0]]()  # the first time is always slower
    for _ in range(rounds):
        for size, work in works.items():
            started = time.process_time()
            work()
            seconds[size].append(time.process_time() - started)
    points: list[Point] = []
    for size in axis.sizes:
        point, before = Point(size, min(seconds[size]), None), points[-1] if points else None
        if before is not None:
            grown = math.log(size / before.size)
            more = math.log(axis.flops(size) / axis.flops(before.size)) / grown if axis.flops else None
            point = dataclasses.replace(point, power=math.log(point.seconds / before.seconds) / grown, flops_power=more)
        points.append(point)
    return points


def table(found: dict[str, list[Point]]) -> str:
    """The report for a terminal, and for the documentation."""
    header = ("what grows", "size", "seconds", "ms each", "power", "of FLOPs")
    lines = [
        (
            name,
            f"{p.size:,}",
            f"{p.seconds:.2g}",
            f"{1e3 * p.seconds / p.size:.2g}",
            power(p.power),
            power(p.flops_power),
        )
        for name, points in found.items()
        for p in points
    ]
    return tabulate(lines, header, tablefmt="github", disable_numparse=True)


def power(value: float | None) -> str:
    """For the table."""
    return "" if value is None else f"{value:.2f}"


def plot(found: dict[str, list[Point]], path: Path) -> None:
    """Seconds against size, both logarithmic, beside a line of what linear growth from the last point would be."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - of the development extras, and slow to import

    figure, panels = plt.subplots(2, 3, figsize=(9, 5), layout="constrained")
    for panel, (name, points) in zip(panels.flat, found.items(), strict=True):
        sizes, last = [p.size for p in points], points[-1]
        panel.loglog(sizes, [last.seconds * size / last.size for size in sizes], color="0.7", linestyle="--")
        panel.loglog(sizes, [p.seconds for p in points], marker="o", color="black")
        panel.set(title=name, ylabel="seconds")
    figure.savefig(path, metadata={"Date": None})


@click.command()
@click.option("--quick", is_flag=True, help="The two smallest sizes, once: whether it works.")
@click.option("--json", "in_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--plot", "picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into this file.")
def main(quick: bool, in_json: bool, picture: Path | None) -> None:
    """How cost grows, over three decades."""
    model = CausalLM.load(str(HERE / "base"), Cpu())
    with tempfile.TemporaryDirectory() as scratch, arithmetic_for(model.size):
        found = {}
        for axis in axes(model, Path(scratch)):
            click.echo(f"{axis.name} ...", err=True)
            some = dataclasses.replace(axis, sizes=axis.sizes[:2]) if quick else axis
            found[axis.name] = measure(some, 1 if quick else ROUNDS)
    if picture:
        plot(found, picture)
    told = {name: [dataclasses.asdict(point) for point in points] for name, points in found.items()}
    click.echo(json.dumps(told, indent=1) if in_json else table(found))


if __name__ == "__main__":
    main()
