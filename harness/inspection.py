"""Inspection: what lies in results folders, and what is behind a row of a board."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.config import ConfigError
from harness.store import Store


def folders(out: Path) -> list[Path]:
    """`out`, where it is a results folder, and the results folders in it."""
    return sorted({path.parent for path in [*out.glob("board.json"), *out.glob("*/board.json")]})


def the_folder(out: Path) -> Path:
    """The one results folder that is meant.

    Raises:
        ConfigError: there is none, or there are several.
    """
    found = folders(out)
    if len(found) != 1:
        msg = f"{out} holds {len(found)} results folders: name one by --out"
        raise ConfigError(msg)
    return found[0]


def matching(cell: str, out: Path) -> Iterator[dict[str, Any]]:
    """Records and failed attempts of a cell in all results folders under `out`."""
    for folder in folders(out):
        store = Store(folder)
        failed = [store.attempts(key)[-1] for key in store.attempted()]
        for record in [*store.records("answers"), *store.records("timing"), *failed]:
            if record["key"].startswith(cell) or record["spec"].get("pipeline") == cell:
                yield record


def summarise(record: Mapping[str, Any]) -> str:
    """A record in a few lines."""
    spec = record["spec"]
    lines = [f"{spec.get('pipeline', spec.get('method'))}  seed {spec['seed']}  {record['kind']}: {record['status']}"]
    lines.append(f"  key {record['key'][:16]}  model {spec['model']}  dataset {spec['dataset']}")
    if record.get("reason"):
        lines.append(f"  reason: {record['reason']}")
    if record.get("log"):
        lines += [f"  | {line}" for line in record["log"].splitlines()[-15:]]
    if record["kind"] == "answers" and "answers" in record:
        answers = record["answers"]
        lines.append(f"  {sum(a['correct'] for a in answers)} of {len(answers)} right, {record['seconds']:.1f} s")
        lines += [f"  {t['role']}: {t['method']} in {t['seconds']:.1f} s" for t in record["training"]]
        lines += [f"  {name}: {config}" for name, config in spec["config"].items()]
        lines += [f"  {a['id']} {'right' if a['correct'] else 'wrong'}: {a['text']!r}" for a in answers[:3]]
    return "\n".join(lines)
