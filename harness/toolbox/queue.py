"""Rows that wait for a place in the batch. A decoder takes as many as there is room for, whenever it has room."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.contracts import Completion, Model
from harness.toolbox.choice import Row, Rows
from harness.toolbox.pieces import Pieces

CACHE_BYTES = 2 << 30
"""Most memory that the keys and values of one batch may take."""


class Queue:
    """Rows in the order in which they are taken; by and by their completions."""

    def __init__(self, model: Model, rows: Sequence[Row], max_rows: int) -> None:
        """`max_rows`: places of the batch."""
        self.model, self.rows, self.max_rows = model, rows, max_rows
        self.taken: list[Rows] = []
        self.next = 0

    def take(self, alive: int = 0) -> Rows | None:
        """The next rows, as many as fit beside those that are `alive`, and one if there are none; else nothing."""
        some = self.rows[self.next : self.next + max(0, self.max_rows - alive)]
        size = self._fitting(some, alive)
        if not size:
            return None
        rows = Rows(some[:size], self.model.eos, torch.device(self.model.device.name), Pieces.of(self.model))
        self.next += size
        self.taken.append(rows)
        return rows

    def _fitting(self, rows: Sequence[Row], alive: int) -> int:
        """How many of these fit into `CACHE_BYTES` if each grows to its limit, and the rows alive to the longest's."""
        size = self.model.size
        each = 2 * size.layers * size.width * self.model.device.dtype().itemsize  # at most: heads may be shared
        longest = 0
        for count, row in enumerate(rows, 1):
            longest = max(longest, len(row.prompt_ids) + row.limit)
            if (alive + count) * longest * each > CACHE_BYTES:
                return count - 1 or int(not alive)
        return len(rows)

    def completions(self) -> list[Completion]:
        """What was drawn, in the order of the rows."""
        return [completion for rows in self.taken for completion in rows.completions()]
