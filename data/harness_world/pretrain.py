"""Pretrain the base model from nothing: `python -m harness_world.pretrain --out DIR`.

With `--recipe teacher`, the larger model that distillation learns from: the base model with twice its
layers, trained on.

A small Llama reads the stream of `corpus` for a fixed number of steps. Every batch is a function of
the seed and the step, so a run can go on from a saved state (`--resume`) and gives what the run
from scratch would have given on the same machine.
Shapes: B texts a batch, T tokens, V words of the vocabulary.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F  # noqa: N812  # as everywhere in torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness_world.batching import Stream, batches
from harness_world.checkpoints import Progress, load_state, publish, save_state
from harness_world.evaluate import greedy
from harness_world.growth import grown
from harness_world.muon import Muon
from harness_world.splits import draw_splits
from harness_world.tokenizer import MAX_LENGTH, build_tokenizer

HERE = Path(__file__).parent
LOG_EVERY = 50
LAST_RATE = 0.3
"""Share of the highest rate at which a model that is nearly done goes on."""
DEV_ROWS = 200
"""Dev problems looked at on the way."""


@dataclass(frozen=True)
class Recipe(Stream):
    """All that decides the weights, beside the corpus."""

    steps: int = 4000
    """Optimiser steps in all."""
    decay: int = 2000
    """The rate falls along a line for the last steps, to nothing."""
    lr: float = 3e-3
    """Highest rate of AdamW, which has embeddings and norms."""
    muon_lr: float = 6e-3
    """Highest rate of Muon, which has all the matrices."""
    warmup: int = 50
    width: int = 128
    layers: int = 4
    heads: int = 4
    ffn: int = 344
    grown_from: str = ""
    """Folder beside this file of the smaller model it begins as; empty: from nothing."""


RECIPES = {
    "base": Recipe(),
    "teacher": Recipe(seed="teacher-1", steps=6600, decay=3500, full_from=6000, layers=8, grown_from="base"),
}


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh model with weights drawn from the seed, or a smaller one with more layers."""
    if recipe.grown_from:
        return grown(LlamaForCausalLM.from_pretrained(HERE / recipe.grown_from, dtype=torch.float32), recipe.layers)
    torch.manual_seed(Random(f"{recipe.seed}:init").getrandbits(32))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        intermediate_size=recipe.ffn,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        initializer_range=0.04,  # a narrow model wants wider draws than the usual 0.02
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def share_of_rate(recipe: Recipe, step: int) -> float:
    """The share of its highest rate that a step runs at: short warm-up, constant, then a line to nothing.

    Steps in full have a line of their own, from `LAST_RATE` to nothing.
    """
    end = recipe.steps if recipe.full_from is None else recipe.full_from
    if step >= end:
        return LAST_RATE * (recipe.steps - step) / (recipe.steps - end)
    return min(1.0, (step + 1) / recipe.warmup, (end - step) / recipe.decay)


def new_optimizers(recipe: Recipe, model: LlamaForCausalLM) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""
    inner = {name: p for name, p in model.named_parameters() if p.ndim > 1 and "embed" not in name}
    outer = [p for name, p in model.named_parameters() if name not in inner]
    muon = Muon(inner.values(), lr=recipe.muon_lr)
    return muon, torch.optim.AdamW(outer, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01)


def loss_of(model: LlamaForCausalLM, ids_BT: torch.Tensor, weights_BT: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the next-token loss. Padding is on the right, so causality hides it."""
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
    ahead = ids_BT[:, 1:].flatten()
    losses = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), ahead, reduction="none")
    weights = weights_BT[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


class Run:
    """One pretraining run: model, optimiser, stream and what was spent."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.recipe, self.out = recipe, out
        self.tokenizer = build_tokenizer()
        splits = draw_splits()
        self.dev = splits["dev"][:DEV_ROWS]
        self.avoid = frozenset(row.question for rows in splits.values() for row in rows)
        self.model = new_model(recipe, self.tokenizer)
        self.optimizers = new_optimizers(recipe, self.model)
        self.progress = Progress()

    def resume(self, state: Path) -> None:
        """Go on from a saved state."""
        self.progress = load_state(state, self.model, self.optimizers)

    def step(self, ids_BT: torch.Tensor, weights_BT: torch.Tensor) -> float:
        """One optimiser step; the loss before it."""
        share = share_of_rate(self.recipe, self.progress.step)
        loss = loss_of(self.model, ids_BT, weights_BT)
        self.model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * optimizer.defaults["lr"]
            optimizer.step()
        self.progress.step += 1
        self.progress.tokens += int((ids_BT != self.tokenizer.pad_token_id).sum())
        return loss.item()

    def look(self) -> None:
        """Greedy with the cue on some of dev, and the state on disk: a miss shows early."""
        self.model.eval()  # type: ignore[no-untyped-call]
        score = greedy(self.model, self.tokenizer, self.dev, cue=True)
        self.model.train()
        report({"step": self.progress.step, "dev_cue": score.share, "parsed": score.parsed})
        state = self.out.with_name(f"{self.out.name}-{self.progress.step}.safetensors")
        save_state(state, self.model, self.optimizers, self.progress)

    def train(self, every: int) -> None:
        """All the steps that are left; only they are timed."""
        stream = batches(self.recipe, self.tokenizer, self.avoid, self.progress.step)
        while self.progress.step < self.recipe.steps:
            began = time.perf_counter()
            loss = self.step(*next(stream))
            self.progress.seconds += time.perf_counter() - began
            if self.progress.step % LOG_EVERY == 0:
                report({**asdict(self.progress), "loss": round(loss, 4)})
            if self.progress.step % every == 0:
                self.look()
        publish(self.model, self.tokenizer, self.out)
        facts = json.dumps(self.facts(), indent=1) + "\n"
        (self.out / "training.json").write_text(facts, encoding="utf-8")

    def facts(self) -> dict[str, object]:
        """The recipe and what it cost."""
        return {
            **asdict(self.recipe),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "tokens": self.progress.tokens,
            "seconds": round(self.progress.seconds, 1),
            "threads": torch.get_num_threads(),
            "machine": f"{platform.machine()} CPU",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }


def report(facts: Mapping[str, object]) -> None:
    """One line of JSON, at once."""
    print(json.dumps(facts), flush=True)  # noqa: T201  # the log is what this script prints


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", choices=RECIPES, default="base")
    parser.add_argument("--every", type=int, default=500, help="steps between looks at dev")
    parser.add_argument("--resume", type=Path, help="a saved state to go on from")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)  # sums in one order: the same weights each time
    options.out.parent.mkdir(parents=True, exist_ok=True)
    run = Run(RECIPES[options.recipe], options.out)
    if options.resume:
        run.resume(options.resume)
    run.train(options.every)


if __name__ == "__main__":
    main()
