"""What the campaigns share: a run of some pipelines with three seeds, and which answers were right."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from harness.statistics import paired
from harness.store import Store

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Campaign:
    """Right answers by pipeline, each (P, S) over problems and seeds, and the records and rows behind them."""

    correct: dict[str, np.ndarray]
    sampled: dict[str, np.ndarray]
    """The same of one sample at temperature 1, where one was drawn."""
    records: list[dict]
    rows: dict[str, dict]
    verifiers: dict[str, dict]
    """Rows of that board by pipeline."""
    curves: list[dict]
    """Rows of that board."""

    def shows(self, better: str, worse: str, *, sampled: bool = False, least: int = 500) -> None:
        """Print the paired difference of two pipelines, and hold the first to be better at p < .05."""
        right = self.sampled if sampled else self.correct
        told = f"{better} - {worse}{', one sample at T=1' if sampled else ''}"
        assert len(right[better]) >= least
        self.holds(told, right[better], right[worse])

    @staticmethod
    def holds(told: str, better: np.ndarray, worse: np.ndarray) -> None:
        """Print the paired difference of (P, S) shares that are right, and hold the first to be better at p < .05."""
        found = paired(better, worse)
        problems, seeds = better.shape
        print(f"\n{told}: {better.mean():.3f} - {worse.mean():.3f}, "
              f"{100 * found.delta:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f}), "
              f"p = {found.p:.2g}, {problems} problems x {seeds} seeds")  # fmt: skip
        assert found.delta > 0
        assert found.p < 0.05


@pytest.fixture(scope="session")
def campaign(request):
    """Run pipelines on a dataset, or go on with what `results/campaign` holds."""

    def go(dataset, *runs, tokens=None):
        folder = request.config.rootpath / "results" / "campaign" / (f"{dataset}-{tokens}" if tokens else dataset)
        budget = ["--train-tokens", str(tokens)] if tokens else []
        for arguments in runs:
            command = [sys.executable, "-m", "harness.cli", "run", "--dataset", dataset, *arguments, *budget]
            command += ["--seeds", "0,1,2", "--limit", "1000", "--out", str(folder)]
            subprocess.run(command, check=True, timeout=7200)
        wanted = set(json.loads((folder / "board.json").read_text(encoding="utf-8"))["cells"].values())
        records = [r for r in Store(folder).records("answers") if r["key"] in wanted]  # not those of other settings
        correct, sampled = {}, {}
        for pipeline in {r["spec"]["pipeline"] for r in records}:
            of_seed = {r["spec"]["seed"]: r for r in records if r["spec"]["pipeline"] == pipeline}
            if set(SEEDS) <= set(of_seed):  # the folder may hold more, run by hand
                answers = [of_seed[seed]["answers"] for seed in SEEDS]
                correct[pipeline] = np.array([[a["correct"] for a in of_one] for of_one in answers]).T
                if all(a["sampled_correct"] is not None for of_one in answers for a in of_one):
                    sampled[pipeline] = np.array([[a["sampled_correct"] for a in of_one] for of_one in answers]).T
        boards = [json.loads((folder / f"{n}.json").read_text(encoding="utf-8")) for n in ("accuracy", "verifiers")]
        curves = json.loads((folder / "curves.json").read_text(encoding="utf-8"))["rows"]
        by_pipeline = [{r["pipeline"]: r for r in board["rows"]} for board in boards]
        return Campaign(correct, sampled, records, *by_pipeline, curves)

    return go
