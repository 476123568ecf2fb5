"""Samples that the methods of a run share: drawn once for a checkpoint, kept in the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from harness.contracts import Completion, Model
from harness.plan import digest
from harness.store import Store
from harness.toolbox.sampling import SampleRequest, draw


class SharedSamples:
    """Samples of one checkpoint that the methods of a run share: drawn once, kept in the store.

    A sample is known by its prompt, temperature, length limit, stops and seed. The seed holds problem and sample
    number, so four samples are the first four of sixteen.
    """

    def __init__(self, store: Store, checkpoint: str) -> None:
        self.store, self.checkpoint = store, checkpoint
        self.group = checkpoint
        self.known = {row["id"]: row for row in store.samples(self.group)}
        self.new: list[dict[str, Any]] = []

    @staticmethod
    def identify(request: SampleRequest, seed: int) -> str:
        """Name of one sample; a greedy one has no seed."""
        settings = [request.prompt_ids, request.temperature, request.max_new_tokens, request.stop]
        return digest([*settings, seed if request.temperature > 0 else None])[:32]

    def draw(self, model: Model, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """The completions of each request, of which only the unknown ones are drawn now."""
        missing: dict[str, tuple[SampleRequest, int]] = {}
        names = [[self.identify(request, seed) for seed in request.seeds] for request in requests]
        for request, of_request in zip(requests, names, strict=True):
            for name, seed in zip(of_request, request.seeds, strict=True):
                if name not in self.known:
                    missing[name] = (request, seed)
        self._draw_missing(model, missing)
        return [[completion_of(self.known[name]) for name in of_request] for of_request in names]

    def _draw_missing(self, model: Model, missing: Mapping[str, tuple[SampleRequest, int]]) -> None:
        seeds: dict[SampleRequest, list[tuple[str, int]]] = {}
        for name, (request, seed) in missing.items():
            seeds.setdefault(dataclasses.replace(request, seeds=()), []).append((name, seed))
        todo = [dataclasses.replace(r, seeds=tuple(seed for _, seed in wanted)) for r, wanted in seeds.items()]
        for wanted, completions in zip(seeds.values(), draw(model, todo), strict=True):
            for (name, _), completion in zip(wanted, completions, strict=True):
                row = {"id": name, **vars(completion)}
                self.known[name] = row
                self.new.append(row)

    def publish(self) -> None:
        """Keep what was drawn for the jobs to come."""
        if self.new:
            self.store.publish_samples(self.group, self.new)
            self.new = []


def completion_of(row: Mapping[str, Any]) -> Completion:
    """A completion as it was kept."""
    return Completion(row["text"], tuple(row["tokens"]), tuple(row["logprobs"]), row["finish"])
