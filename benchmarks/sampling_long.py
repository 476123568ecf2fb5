"""Sampling from long prompts: what a prompt that is read once, and not once a sample, is worth."""

from __future__ import annotations

from benchmarks.course import world
from benchmarks.models import Setting
from benchmarks.pairs import Figures
from benchmarks.sampling import PROMPTS, compare_sampling

GOALS = {"tiny": 5.0, "smollm2": 4.0}
WIDTH = 256
"""Tokens of a prompt."""


def measure(setting: Setting) -> dict[str, Figures]:
    """Samples of prompts that are many questions one after the other, cut to one length."""
    problems = world().training().problems
    ids = [token for problem in problems[: 16 * PROMPTS] for token in setting.model.encode_prompt(problem.prompt)]
    prompts = [ids[first : first + WIDTH] for first in range(0, PROMPTS * WIDTH, WIDTH)]
    return {"sampling-long": compare_sampling(setting, prompts, GOALS[setting.kind])}
