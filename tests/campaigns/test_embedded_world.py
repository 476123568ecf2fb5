"""What the embedded world must show, with three seeds on the whole main test: the directions the literature reports.

Slow: it runs the methods compared, or goes on with what `results/campaign` holds. The figures it prints are the
evidence.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from harness.statistics import paired, within_problem_auc
from harness.store import Store

pytestmark = pytest.mark.slow
SEEDS = (0, 1, 2)
COT, VOTE = "cot-sft", "cot-sft + self-consistency"
METHODS = ("sft", COT, "cot-prompting", "dpo", "self-consistency", "best-of-n", "oracle", "sampled")
JUDGED, DICE = "cot-sft > outcome-reward-model + best-of-n", "cot-sft > random-score + best-of-n"


@pytest.fixture(scope="module")
def correct(request):
    """pipeline -> (P, S) booleans, and the records behind them."""
    folder = request.config.rootpath / "results" / "campaign"
    asked = [part for method in METHODS for part in ("-m", method)]
    command = [sys.executable, "-m", "harness.cli", "run", *asked, "--seeds", "0,1,2", "--out", str(folder)]
    subprocess.run(command, check=True, timeout=7200)
    wanted = set(json.loads((folder / "board.json").read_text(encoding="utf-8"))["cells"].values())
    records = [r for r in Store(folder).records("answers") if r["key"] in wanted]  # not those of other settings
    found = {}
    for pipeline in {r["spec"]["pipeline"] for r in records}:
        of_seed = {r["spec"]["seed"]: r for r in records if r["spec"]["pipeline"] == pipeline}
        columns = [[a["correct"] for a in of_seed[seed]["answers"]] for seed in SEEDS]
        found[pipeline] = np.array(columns).T
    return found, records


@pytest.mark.parametrize(
    ("better", "worse"),
    [("sft", "base"), (COT, "base + cot-prompting"), (VOTE, COT), (JUDGED, DICE), (JUDGED, "cot-sft + sampled")],
)
def test_directions(correct, better, worse):
    found = paired(correct[0][better], correct[0][worse])
    print(f"\n{better} - {worse}: {100 * found.delta:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f}), "
          f"p = {found.p:.2g}, {len(correct[0][better])} problems x {len(SEEDS)} seeds")  # fmt: skip
    assert len(correct[0][better]) >= 500
    assert found.delta > 0
    assert found.p < 0.05


def test_the_base_has_headroom(correct):
    share = correct[0]["base + cot-prompting"].mean()
    oracle, greedy = correct[0]["cot-sft + oracle"].mean(), correct[0][COT].mean()
    print(f"\nbase with cue {share:.3f}, oracle {oracle:.3f}, greedy of the same checkpoint {greedy:.3f}")
    assert 0.40 < share < 0.75
    assert oracle >= greedy + 0.15


def test_the_scorer_ranks_within_problems(correct):
    for record in (r for r in correct[1] if r["spec"]["pipeline"] in (JUDGED, DICE)):
        groups = [([s["score"] for s in a["samples"]], [s["correct"] for s in a["samples"]]) for a in record["answers"]]
        auc, problems = within_problem_auc(groups)
        print(f"\n{record['spec']['pipeline']} seed {record['spec']['seed']}: AUC {auc:.3f} on {problems} problems")
        assert (auc > 0.6) == (record["spec"]["pipeline"] == JUDGED)
