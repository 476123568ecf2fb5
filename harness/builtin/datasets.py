"""Datasets of one's own: a JSON-lines file, a folder with one file a split, or a dataset id on the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import rows
from harness.contracts import DatasetSpec, Problem, TrainingData
from harness.meter import derive_seed

SPLITS = ("train", "dev", "test")
DEV_SHARE, TEST_SHARE = 0.1, 0.3
EPOCHS = 3
"""Training budget of one's own data: about so many passes over the train split."""
CHARACTERS_PER_TOKEN = 3
VIEW_READERS: Mapping[str, Callable[[Sequence[Mapping[str, Any]], str], list[Any]]] = {
    "pairs": rows.pairs,
    "conversations": rows.conversations,
    "stepwise": rows.stepwise,
    "instructions": rows.instructions,
    "corpus": rows.texts,
    "general": rows.turns,
    "general_dev": rows.turns,
}
"""Files of a dataset folder beside its splits, and how their rows are read."""


@dataclass(frozen=True)
class TextDataset:
    """Problems with text answers; right is what ends in the same answer, numbers compared as numbers."""

    name: str
    train: Sequence[Problem]
    dev: Sequence[Problem]
    test: Sequence[Problem] = field(repr=False)  # the verifier that methods are handed is bound to this
    views: Mapping[str, Any] = field(default_factory=dict)
    """View to its rows, under the names of TrainingData's fields."""

    def training(self) -> TrainingData:
        """Train and dev splits with their views."""
        return TrainingData(self.train, self.dev, self.verify, render_target, **self.views)

    def verify(self, problem: Problem, text: str) -> tuple[bool, str | None]:
        """Compare the last answer in `text` with the reference, both in canonical form."""
        from harness.toolbox.verify import final_answer  # noqa: PLC0415 - the toolbox imports torch

        found = final_answer(text)
        return found is not None and found == (final_answer(problem.answer) or problem.answer.strip()), found


def render_target(problem: Problem, rationale: bool) -> str:
    """The completion to learn: the worked solution where it is wanted and there is one, then the answer line."""
    answer = f"A: {problem.answer.strip()}"
    return f"{problem.rationale}\n{answer}" if rationale and problem.rationale else answer


def find_dataset(name: str) -> DatasetSpec | None:
    """The spec of a file, a folder or a hub id; None where `name` is none of these.

    Raises:
        DataError: the data cannot be used; nothing is planned then.
    """
    path = Path(name)
    if path.suffix == ".jsonl" or path.exists():
        files = _files(path)
        dataset = load_files(name, files)  # now, so that bad data ends before anything runs
        digest = hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
        return _spec(name, dataset, digest)
    if name.count("/") == 1 and not name.startswith((".", "/")):
        dataset, revision = load_hub(name)
        return _spec(name, dataset, revision)
    return None


def _spec(name: str, dataset: TextDataset, revision: str) -> DatasetSpec:
    longest = max(len(render_target(p, rationale=True)) for p in dataset.train)
    characters = sum(len(p.prompt) + len(render_target(p, rationale=True)) for p in dataset.train)
    budget = max(1, EPOCHS * characters // CHARACTERS_PER_TOKEN)
    room = min(1024, 64 + longest // 2)
    return DatasetSpec(name, "your own data", lambda: dataset, lambda: revision, room, budget)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        rows.fail(str(path), None, "there is no such file")
    if not path.is_dir():
        return [path]
    files = [path / f"{split}.jsonl" for split in SPLITS]
    for file in files:
        if not file.exists():
            rows.fail(str(file), None, "is missing: a dataset folder holds train.jsonl, dev.jsonl and test.jsonl")
    return files + [path / f"{view}.jsonl" for view in VIEW_READERS if (path / f"{view}.jsonl").exists()]


def load_files(name: str, files: Sequence[Path]) -> TextDataset:
    """Read one file and cut it, or one file a split."""
    if len(files) == 1:
        return cut(name, rows.problems(rows.read_rows(files[0]), str(files[0])))
    train, dev, test = (rows.problems(rows.read_rows(file), str(file)) for file in files[: len(SPLITS)])
    rows.refuse_overlap({"train": train, "dev": dev, "test": test}, name)
    views = {file.stem: VIEW_READERS[file.stem](rows.read_rows(file), str(file)) for file in files[len(SPLITS) :]}
    return TextDataset(name, train, dev, test, views)


def cut(name: str, items: Sequence[Problem]) -> TextDataset:
    """Cut one list into splits by a hash of the question, so that a row stays where it is when others are added."""
    splits: dict[str, dict[str, Problem]] = {split: {} for split in SPLITS}
    for problem in items:
        share = derive_seed("split", problem.prompt) / 2**63
        split = "test" if share < TEST_SHARE else "dev" if share < TEST_SHARE + DEV_SHARE else "train"
        splits[split][problem.prompt] = problem
    for split, held in splits.items():
        if not held:
            rows.fail(name, None, f"{len(items)} rows are too few: the {split} split would be empty")
    train, dev, test = (list(splits[split].values()) for split in SPLITS)
    return TextDataset(name, train, dev, test)


def load_hub(name: str) -> tuple[TextDataset, str]:
    """A dataset from the hub or its cache: its own test split, and dev cut from train where it has none.

    Raises:
        DataError: it cannot be had, or its rows cannot be used.
    """
    import datasets  # noqa: PLC0415 - a second of import that only hub data needs

    try:
        found: Any = datasets.load_dataset(name)
    except Exception as error:  # noqa: BLE001 - the library raises a dozen kinds, and each means the same here
        rows.fail(name, None, f"cannot be loaded from the hub: {type(error).__name__}: {error}")
    splits: dict[str, Sequence[Problem]] = {s: rows.problems(list(found[s]), f"{name} ({s})") for s in found}
    if "train" not in splits:
        rows.fail(name, None, f"has no train split (it has {', '.join(splits)})")
    splits = {"dev" if split == "validation" else split: items for split, items in splits.items()}
    if not {"dev", "test"} <= splits.keys():
        rest = cut(name, splits["train"])
        splits = {"dev": rest.dev, "test": rest.test, **splits, "train": rest.train}
    train, dev, test = (splits[split] for split in SPLITS)
    rows.refuse_overlap({"train": train, "dev": dev, "test": test}, name)
    revision = hashlib.sha256("".join(str(found[s]._fingerprint) for s in found).encode()).hexdigest()  # noqa: SLF001 - datasets offers its content hash under no other name
    return TextDataset(name, train, dev, test), revision
