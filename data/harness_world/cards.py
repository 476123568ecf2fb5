"""The cards: what each file and each model are, with hashes; written, never typed.

`python -m harness_world.cards` writes them again from what lies in `files/`, `base/` and `teacher/`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from harness_world.corpus import GIVEN, MIXTURE
from harness_world.splits import SEED
from harness_world.vocabulary import words
from harness_world.wordings import THINK

HERE = Path(__file__).parent
SAYS = {
    "train.jsonl": "problems of 1 to 7 steps, to train on",
    "dev.jsonl": "problems of 3 to 7 steps; every choice is made here",
    "test.jsonl": "the main test: 200 problems each of 3, 4, 5, 6 and 7 steps",
    "easy.jsonl": "the easy test: 100 problems each of 1 to 5 steps",
    "pairs.jsonl": "a right and a wrong reply of the base model to a training problem",
    "conversations.jsonl": "two turns about one story, from training problems",
    "stepwise.jsonl": "drafts cut into steps with a label each, from training problems",
    "instructions.jsonl": "eleven tasks of unlike size, to train on",
    "held_out_tasks.jsonl": "the instruction test: four tasks of two clusters that no training data holds",
    "dialogue.jsonl": "the dialogue test: a question of the easy test and one that goes on from its answer",
    "corpus.jsonl": "stories that ask nothing, with the running total told",
    "money_train.jsonl": "problems about money, whose words the base model never read",
    "money_dev.jsonl": "the same; every choice is made here",
    "money_test.jsonl": "the money test: 125 problems each of 2 to 5 steps",
    "money_corpus.jsonl": "stories about money that ask nothing, with the balance told",
    "general.jsonl": "single turns like those of the pretraining stream, to be replayed",
    "general_dev.jsonl": "the same, held out: their loss before and after training is the forgetting",
}
DATA_CARD = """\
---
license: apache-2.0
language: en
---
# Word problems about a running total

Made by `harness_world`, world `{seed}`: one owner, one running total from 0 to 99, and sentences
that each have one meaning, so that every step can be checked. All of it is synthetic; no text of
anyone else went in. Splits share no question, and the base model was pretrained on no question
that is in any of them.

| file | rows | what | sha256 |
|---|---|---|---|
{table}

**Columns.** `train`, `dev`, `test`, `easy`: `id`, `prompt` (the plain question), `answer`,
`rationale` (one style, drawn 45 % terse, 30 % plain, 25 % wordy), `steps` (the canonical working),
`n_steps`. `pairs`: `id`, `prompt`, `chosen`, `rejected`. `conversations`: `id`, `messages`.
`stepwise`: `id`, `prompt`, `completions`, `labels` (False from the first wrong step on).
`instructions`: `id`, `task`, `prompt`, `completion`. `dialogue`: as the splits, and `earlier` (what the
user asked before). `corpus`: `text`. `general`: `prompt`, `completion`.

**Make them again.** `python -m harness_world.build` writes the same bytes every time, all but
`pairs.jsonl`: that one is sampled from the base model by `python -m harness_world.pairs` (seeded,
but floating-point sums may differ on another machine).

**Limits.** Templates, {words} words, whole numbers: a wind tunnel for methods, not a test of
language or of mathematics.
"""
MODEL_CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
---
# {title} of the embedded world

A Llama of {parameters:,} parameters ({layers} layers, width {width}, {heads} heads, {ffn} in the
feed-forward, tied embeddings), trained {beginning} on word problems of world `{world}`,
seed `{seed}`. It answers directly when asked plainly, and with a rationale when the question ends in
`{think}`. It knows nothing else.

**Recipe.** {steps:,} steps of {batch} texts, {tokens:,} tokens (padding not counted). Muon for the
matrices inside the layers (rate {muon_lr}), AdamW for embeddings and norms (rate {lr}, betas 0.9 and
0.98), weight decay 0.01, gradient norm clipped at 1; rates constant after {warmup} steps, then along a
line to nothing over the last {decay:,}{ending}. Texts by share: {mixture}. Questions and drafts weigh {given}
in the loss. No question of any split was seen, and no word about money.
Make it again: `python -m harness_world.pretrain --recipe {name} --out DIR`.

**Cost.** {seconds:,.0f} s on {threads} thread of a shared machine ({machine}); torch {torch},
transformers {transformers}.

**Measured** by `python -m harness_world.evaluate --model DIR --splits dev test easy --keep`. Accuracy
with a 95 % interval (Wilson; for one sample, normal over problems). T=1 is untruncated; a vote's tie
goes to the first seen. The recipe was chosen on dev.

| | {splits} |
|---|{rule}
{table}

Samples at T=1 with the cue on {styles_split}, by style (share, accuracy): {styles}.

**Weights** `model.safetensors`, float32, sha256 `{sha256}`.

**Limits.** One narrow world, single digits as tokens, sums below 100. Asked plainly about a long problem
it is mostly wrong, or says `A: about 40`, which counts as no answer.
"""


TITLES = {
    "base": ("Base model", "from nothing"),
    "teacher": ("Teacher", "on from the base model, with new layers between its own that change nothing at first,"),
}
"""Folder of a model to what its card calls it, and how its training began."""


def sha256(path: Path) -> str:
    """Hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_data_card(folder: Path) -> None:
    """`README.md` beside the data files, with the hash of each."""
    lines = []
    for name, says in SAYS.items():
        path = folder / name
        if path.exists():
            rows = path.read_bytes().count(b"\n")
            lines.append(f"| `{name}` | {rows} | {says} | `{sha256(path)}` |")
    text = DATA_CARD.format(seed=SEED, table="\n".join(lines), words=len(words()))
    (folder / "README.md").write_text(text, encoding="utf-8")


def interval(figure: list[float]) -> str:
    """`.690 (.661 to .718)`."""
    share, low, high = (f"{value:.3f}".lstrip("0") for value in figure)
    return f"{share} ({low} to {high})"


def figure_table(figures: dict[str, dict[str, list[float]]]) -> str:
    """A line a figure, a column a split."""
    names = list(next(iter(figures.values())))
    rows = []
    for name in names:
        cells = " | ".join(interval(split[name]) for split in figures.values())
        rows.append(f"| {name} | {cells} |")
    return "\n".join(rows)


def in_full(facts: dict[str, int]) -> str:
    """What the last steps of a recipe were, where they were in full."""
    first = facts.get("full_from")
    if not first:
        return ""
    return (
        f" of the first {first:,}; then {facts['steps'] - first:,} steps more, from a third of the rates to nothing, "
        "in which every rationale was written in full"
    )


def write_model_card(folder: Path) -> None:
    """`README.md` of a model, from its `training.json` and `figures.json`."""
    title, beginning = TITLES[folder.name]
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    measured = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    first = next(iter(measured))
    styles = measured[first]["styles"].items()
    mixture = ", ".join(f"{kind.__name__.removesuffix('_text')} {share:g} %" for kind, share in MIXTURE.items())
    text = MODEL_CARD.format(
        **facts,
        name=folder.name,
        title=title,
        ending=in_full(facts),
        beginning=beginning,
        world=SEED,
        think=THINK.strip(),
        given=GIVEN,
        mixture=mixture,
        splits=" | ".join(f"{name}, n = {split['rows']}" for name, split in measured.items()),
        rule="---|" * len(measured),
        table=figure_table({name: split["accuracy"] for name, split in measured.items()}),
        styles="; ".join(f"{name} {share:.2f}, {right:.2f}" for name, (share, right) in styles),
        styles_split=first,
        sha256=sha256(folder / "model.safetensors"),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def main() -> None:
    """Write all cards again."""
    write_data_card(HERE / "files")
    for name in TITLES:
        write_model_card(HERE / name)


if __name__ == "__main__":
    main()
