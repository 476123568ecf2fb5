"""Pretraining: the schedule, a run that is cut and goes on, and the recipes."""

import dataclasses

import pytest
import torch

from harness_world import pretrain
from harness_world.pretrain import LAST_RATE, RECIPES, Recipe, Run, share_of_rate

TINY = Recipe(seed="check", batch=4, pool_steps=5, steps=6, decay=4, warmup=2, width=16, layers=1, heads=2, ffn=16)


@pytest.fixture(autouse=True)
def few_problems(monkeypatch):
    draw = pretrain.draw_splits
    monkeypatch.setattr(pretrain, "draw_splits", lambda: draw({"test": 5, "easy": 5, "dev": 4, "train": 5}))


def test_the_rate_warms_up_stays_and_falls_to_nothing():
    recipe = Recipe(steps=100, decay=40, warmup=10)
    shares = [share_of_rate(recipe, step) for step in (0, 4, 9, 50, 60, 80, 99)]
    assert shares == pytest.approx([0.1, 0.5, 1, 1, 1, 0.5, 1 / 40])


def test_steps_in_full_have_a_line_of_their_own():
    recipe = Recipe(steps=120, decay=40, warmup=10, full_from=100)
    shares = [share_of_rate(recipe, step) for step in (80, 99, 100, 110, 119)]
    assert shares == pytest.approx([0.5, 1 / 40, LAST_RATE, LAST_RATE / 2, LAST_RATE / 20])


def test_a_run_that_was_cut_gives_the_same_weights(tmp_path):
    whole = Run(TINY, tmp_path / "whole")
    whole.train(every=3)
    rest = Run(TINY, tmp_path / "rest")
    rest.resume(tmp_path / "whole-3.safetensors")
    assert rest.progress.step == 3
    rest.train(every=10)
    for one, other in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert rest.progress.tokens == whole.progress.tokens
    assert (tmp_path / "rest" / "training.json").exists()


def test_the_teacher_begins_as_the_base():
    recipe = dataclasses.replace(RECIPES["teacher"], steps=1)
    large = pretrain.new_model(recipe, pretrain.build_tokenizer())
    assert large.config.num_hidden_layers == 2 * RECIPES["base"].layers
    assert recipe.full_from % recipe.pool_steps == 0
