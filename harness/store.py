"""The store: the truth is one file per record, published whole or not at all, and never a second time.

Of two publishers of a key the second learns that it came second. A record that was acknowledged survives `kill -9` and
loss of power; one that was not leaves at most a temporary file, which readers ignore and a later writer sweeps away.

    cells/<slug>-<key>.json      answers          stages/<key>.json           manifest: a stage exists when this does
    timings/<slug>-<key>.json    timings          stages/<key>-<draw>/        the checkpoint files it vouches for
    attempts/<key>/<n>.json      failed jobs      samples/<group>/<sha256>.jsonl.gz         logs/<slug>-<key>.log
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.files import StoreError, digests, explained, publish, slugged, sweep, sync_folder, temp_name

__all__ = ["FOLDERS", "SCHEMA", "Store", "StoreError"]

SCHEMA = 1
FOLDERS = {"answers": "cells", "timing": "timings", "stage": "stages"}
_KEY = re.compile(r"[0-9a-f]{1,64}")
_RECORD_FILE = re.compile(r"(?:[A-Za-z0-9._-]{1,100}-)?([0-9a-f]{1,64})\.json")


class Store:
    """Records, stages, samples and attempts under one folder. Any number of processes may use it at once."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._swept: set[Path] = set()

    # -- records

    def publish(self, kind: str, slug: str, key: str, record: Mapping[str, Any]) -> bool:
        """Publish the one record of `key`; False where there was one. `slug` is for people and follows from the key.

        Raises:
            StoreError: the record is no JSON (NaN included), says another kind or key, or cannot be written.
        """
        if kind not in FOLDERS or kind == "stage":
            msg = f"{self.folder}: {kind!r} is no kind of record that is published by itself"
            raise StoreError(msg)
        path = self._inside(FOLDERS[kind], f"{slugged(slug)}-{_checked(key)}.json")
        data = _encoded(path, {**_head(kind, key), **record}, _head(kind, key))
        self._prepare(FOLDERS[kind])
        return self._find(kind, key) is None and publish(path, data)

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return the record of `key`, or None.

        Raises:
            StoreError: the file is torn or holds something else.
        """
        path = self._find(kind, _checked(key))
        return None if path is None else self._read(path, _head(kind, key))

    def each(self, kind: str) -> Iterator[dict[str, Any]]:
        """Every record of `kind` in the order of the file names, one in memory at a time.

        Raises:
            StoreError: a file is torn, foreign, or the second of its key.
        """
        seen: dict[str, Path] = {}
        for path in self._listed(FOLDERS[kind]):
            if kind == "stage" and path.is_dir():
                continue
            match = _RECORD_FILE.fullmatch(path.name)
            if match is None:
                msg = f"{path}: not a file of this store"
                raise StoreError(msg)
            if (first := seen.setdefault(match[1], path)) is not path:
                msg = f"{path}: a second record of the key of {first.name}"
                raise StoreError(msg)
            yield self._read(path, _head(kind, match[1]))

    def records(self, kind: str) -> list[dict[str, Any]]:
        """All of `each(kind)`."""
        return list(self.each(kind))

    def keys(self, kind: str) -> set[str]:
        """Keys that have a record, from the file names alone: how a resume learns what is left to do."""
        return {match[1] for path in self._listed(FOLDERS[kind]) if (match := _RECORD_FILE.fullmatch(path.name))}

    # -- stages

    def publish_stage(self, key: str, write: Callable[[Path], None], facts: Mapping[str, Any]) -> bool:
        """Let `write` fill an empty folder, and publish it with `facts` as the stage `key`; False where there was one.

        Raises:
            StoreError: `write` failed (its exception is the cause), or the folder or the manifest cannot be written.
        """
        manifest = self._inside("stages", f"{_checked(key)}.json")
        folder = self._prepare("stages")
        if os.path.lexists(manifest):
            return False
        # Each publisher has a folder of its own: two of them, or a dead one's leftovers, can never mix their files.
        final, temp, published = folder / f"{key}-{secrets.token_hex(8)}", temp_name(folder), False
        try:
            _fill(temp, write)
            record = {**facts, **_head("stage", key), "folder": final.name, "files": digests(temp, sync=True)}
            data = _encoded(manifest, record, _head("stage", key))
            with explained(final):
                temp.rename(final)
                sync_folder(folder)
            published = publish(manifest, data)
        finally:
            shutil.rmtree(temp, ignore_errors=True)
            if not published and not _names(manifest, final):
                shutil.rmtree(final, ignore_errors=True)
        return published

    def stage(self, key: str) -> tuple[Path, dict[str, Any]] | None:
        """Return the checkpoint folder of a stage and its manifest, each file checked by its sha256.

        Raises:
            StoreError: a file is missing, changed or foreign.
        """
        manifest = self.get("stage", key)
        if manifest is None:
            return None
        if not re.fullmatch(rf"{key}-[0-9a-f]{{16}}", str(manifest.get("folder"))):
            msg = f"{self.folder / 'stages' / key}.json: names a foreign folder"
            raise StoreError(msg)
        folder = self._inside("stages", manifest["folder"])
        expected, found = manifest["files"], digests(folder)
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                cause = "is missing" if name not in found else "is not the file that was published (sha256)"
                msg = f"{folder / name}: {cause}"
                raise StoreError(msg)
        return folder, manifest

    # -- samples

    def publish_samples(self, group: str, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Add a shard of rows to a group; False where the same rows are there as a shard already.

        Raises:
            StoreError: a row is no JSON, or the shard cannot be written.
        """
        folder = self._prepare("samples", _group(group))
        text = b"".join(_encoded(folder, row, {}) + b"\n" for row in rows)
        path = folder / f"{hashlib.sha256(text).hexdigest()}.jsonl.gz"
        return publish(path, gzip.compress(text, mtime=0))

    def samples(self, group: str) -> list[dict[str, Any]]:
        """Every row of every shard of a group, shards in the order of their names. Overlapping shards are not merged.

        Raises:
            StoreError: a shard is torn, changed or foreign.
        """
        rows: list[dict[str, Any]] = []
        for path in self._listed("samples", _group(group)):
            try:
                rows += _shard(self._inside(*path.relative_to(self.folder).parts))
            except (OSError, EOFError, ValueError, zlib.error) as error:
                msg = f"{path}: not a whole shard of samples: {error}"
                raise StoreError(msg) from error
        return rows

    # -- doing again

    def discard(self, kind: str, keys: Container[str]) -> None:
        """Forget the records of `keys` and their failed attempts. Checkpoints of a forgotten stage are swept later.

        Raises:
            StoreError: a file cannot be removed.
        """
        for path in self._listed(FOLDERS[kind]):
            match = _RECORD_FILE.fullmatch(path.name)
            if match and match[1] in keys:
                with explained(path):
                    path.unlink(missing_ok=True)
        for folder in self._listed("attempts"):
            if folder.name in keys:
                shutil.rmtree(folder, ignore_errors=True)

    def discard_samples(self) -> None:
        """Forget all shared samples."""
        shutil.rmtree(self._inside("samples"), ignore_errors=True)

    # -- attempts and logs

    def attempt(self, record: Mapping[str, Any]) -> int:
        """Record a job that failed; returns which attempt of its key it was, from 1.

        Raises:
            StoreError: the record has no kind or key, is no JSON, or cannot be written.
        """
        key, kind = _checked(str(record.get("key"))), str(record.get("kind"))
        folder = self._prepare("attempts", key)
        n = 1 + max((n for n, _ in self._numbered(key)), default=0)
        while True:
            path = folder / f"{n}.json"
            head = _head(kind, key) if kind in FOLDERS else {"kind": sorted(FOLDERS)}
            if publish(path, _encoded(path, {"schema": SCHEMA, **record, "n": n}, head)):
                return n
            n += 1

    def attempts(self, key: str) -> list[dict[str, Any]]:
        """Failed attempts of a key, first to last; each has its number as `n`.

        Raises:
            StoreError: a file is torn or foreign.
        """
        return [self._read(path, {"schema": SCHEMA, "key": key, "n": n}) for n, path in self._numbered(_checked(key))]

    def attempted(self) -> list[str]:
        """Keys with a failed attempt, sorted."""
        return [path.name for path in self._listed("attempts")]

    def log_path(self, slug: str, key: str) -> Path:
        """Where the log of a job goes; its folder exists.

        Raises:
            StoreError: the folder cannot be made.
        """
        name = f"{slugged(slug)}-{_checked(key)}.log"
        return self._prepare("logs") / name

    # -- inside

    def _numbered(self, key: str) -> list[tuple[int, Path]]:
        paths = self._listed("attempts", key)
        for path in paths:
            if not re.fullmatch(r"[1-9][0-9]*\.json", path.name):
                msg = f"{path}: not an attempt"
                raise StoreError(msg)
        return sorted((int(path.stem), path) for path in paths)

    def _inside(self, *parts: str) -> Path:
        path = self.folder.joinpath(*parts)
        with explained(path):
            # Resolved, so that a link planted inside the folder is seen for where it leads.
            if not path.resolve().is_relative_to(self.folder.resolve()):
                msg = f"{path}: leads out of {self.folder}"
                raise StoreError(msg)
        return path

    def _prepare(self, *parts: str) -> Path:
        folder = self._inside(*parts)
        with explained(folder):
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                for made in (folder.parent, self.folder, self.folder.parent):
                    sync_folder(made)
        if folder not in self._swept:
            self._swept.add(folder)
            sweep(folder, _unvouched if parts == ("stages",) else lambda _: False)
        return folder

    def _listed(self, *parts: str) -> list[Path]:
        folder = self._inside(*parts)
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 - names are wanted, 10,000 Paths are not
        except FileNotFoundError:
            return []
        except OSError as error:
            msg = f"{folder}: {error.strerror}"
            raise StoreError(msg) from error
        return [folder / name for name in names if not name.startswith(".")]

    def _find(self, kind: str, key: str) -> Path | None:
        ends = f"{key}.json" if kind == "stage" else f"-{key}.json"
        return next((path for path in self._listed(FOLDERS[kind]) if path.name.endswith(ends)), None)

    def _read(self, path: Path, head: Mapping[str, Any]) -> dict[str, Any]:
        try:
            if path.is_symlink():  # its folder was looked at when it was listed
                self._inside(*path.relative_to(self.folder).parts)
            record = json.loads(path.read_bytes(), parse_constant=_refuse)
        except OSError as error:
            msg = f"{path}: {error.strerror}"
            raise StoreError(msg) from error
        except (ValueError, RecursionError) as error:
            msg = f"{path}: not a whole JSON record: {error}"
            raise StoreError(msg) from error
        if not isinstance(record, dict) or any(record.get(name) != value for name, value in head.items()):
            msg = f"{path}: not the record its name promises: {_spoken(head)}"
            raise StoreError(msg)
        return record


def _head(kind: str, key: str) -> dict[str, Any]:
    return {"schema": SCHEMA, "kind": kind, "key": key}


def _spoken(head: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in head.items())


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        msg = f"{key[:80]!r} is no key: 1 to 64 lower-case hex digits"
        raise StoreError(msg)
    return key


def _group(group: str) -> str:
    name = slugged(group)
    return name if name == group else f"{name[:80]}-{hashlib.sha256(group.encode(errors='replace')).hexdigest()[:16]}"


def _refuse(constant: str) -> float:
    msg = f"{constant} is no JSON"
    raise ValueError(msg)


def _encoded(path: Path, record: Mapping[str, Any], head: Mapping[str, Any]) -> bytes:
    if any(record.get(name) != value for name, value in head.items()):
        msg = f"{path}: the record is not {_spoken(head)}"
        raise StoreError(msg)
    try:
        return json.dumps(record, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"{path}: cannot be written as JSON: {error}"
        raise StoreError(msg) from error


def _fill(temp: Path, write: Callable[[Path], None]) -> None:
    try:
        temp.mkdir()
        write(temp)
    except Exception as error:  # libraries report a full disk in exceptions of their own
        cause = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        msg = f"{temp}: the checkpoint could not be written: {' '.join(str(cause).split())}"
        raise StoreError(msg) from error


def _shard(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes())
    if f"{hashlib.sha256(text).hexdigest()}.jsonl.gz" != path.name:
        msg = "its rows are not those that were published (sha256)"
        raise ValueError(msg)
    return [json.loads(line) for line in text.splitlines()]


def _names(manifest: Path, folder: Path) -> bool:
    """Whether a published manifest vouches for this checkpoint folder: then the folder must stay."""
    try:
        return bool(json.loads(manifest.read_bytes()).get("folder") == folder.name)
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True  # unknown: an orphan is swept later, a lost checkpoint is lost


def _unvouched(path: Path) -> bool:
    """Whether this is a checkpoint folder that no manifest names: its publisher died or came second."""
    return path.is_dir() and not path.is_symlink() and not _names(path.parent / f"{path.name.split('-')[0]}.json", path)
