"""Files that are there whole or not at all: publish once, replace, fingerprint, sweep up after the dead.

To publish is to write to a temporary name in the same folder, sync, and give the name by `os.link`, which creates only
what is absent. Where hard links are unknown (exFAT, some network mounts: EPERM or ENOTSUP) a claim file made with
`O_EXCL` and a rename take their place: still atomic, but a writer killed between the two blocks that name for an hour.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TEMP = ".tmp-"
_STALE_S = 3600.0
_CLAIM_WAIT_S = 5.0
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}


class StoreError(Exception):
    """Something cannot be read or written: one line that names the path and the cause."""


def slugged(text: str) -> str:
    """Return a file name part `[A-Za-z0-9._-]{1,100}` that looks like `text`; unique only with a key beside it."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", text).strip("-.")[:100] or "_"
    return f"_{name[:99]}" if name.split(".")[0].upper() in _RESERVED else name


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError inside (disk full, read-only, too large) into a StoreError of one line about `path`."""
    try:
        yield
    except OSError as error:
        msg = f"{path}: {error.strerror or error}"
        raise StoreError(msg) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: a reader sees the old file or the new one.

    Raises:
        StoreError: the folder or the file cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = _write_temp(path.parent, data)
        try:
            temp.replace(path)
        finally:
            temp.unlink(missing_ok=True)
        sync_folder(path.parent)


def publish(path: Path, data: bytes) -> bool:
    """Create `path` with `data`, durably; False where something has that name. Its folder must exist.

    Raises:
        StoreError: it cannot be written; then nothing has appeared.
    """
    with explained(path):
        temp = _write_temp(path.parent, data)
        try:
            created = _link(temp, path)
        finally:
            temp.unlink(missing_ok=True)
        # The second publisher syncs as well: it, too, tells its caller that the record is safe.
        sync_folder(path.parent)
    return created


def _link(temp: Path, path: Path) -> bool:
    try:
        os.link(temp, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _claim(temp, path)
    return True


def _claim(temp: Path, path: Path) -> bool:
    """Create-only-if-absent without hard links: whoever makes the claim file may rename."""
    claim, ends = path.with_name(f"{TEMP}claim-{path.name}"), time.monotonic() + _CLAIM_WAIT_S
    while True:
        if os.path.lexists(path):
            return False
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.02)
    try:
        if os.path.lexists(path):
            return False
        temp.rename(path)
    finally:
        claim.unlink(missing_ok=True)
    return True


def _write_temp(folder: Path, data: bytes) -> Path:
    temp = temp_name(folder)
    try:
        with temp.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    return temp


def temp_name(folder: Path) -> Path:
    """Return a new name in `folder` that readers pass over."""
    return folder / f"{TEMP}{os.getpid()}-{secrets.token_hex(8)}"


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: syncing a file saves its content, not its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digests(folder: Path, *, sync: bool = False) -> dict[str, str]:
    """Return the sha256 of every file under `folder` by its relative path; with `sync`, make them durable as well.

    Raises:
        StoreError: a file cannot be read, or is a link, a pipe or a device.
    """
    found: dict[str, str] = {}
    with explained(folder):
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                msg = f"{path}: neither a file nor a folder"
                raise StoreError(msg)
            if path.is_file():
                with path.open("rb") as file:
                    found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
                    if sync:
                        os.fsync(file.fileno())
            elif sync:
                sync_folder(path)
        if sync:
            sync_folder(folder)
    return found


def sweep(folder: Path, orphan: Callable[[Path], bool]) -> None:
    """Remove temporary files, and whatever is an `orphan`, once nothing in it is younger than an hour."""
    with contextlib.suppress(OSError):
        for path in [path for path in folder.iterdir() if path.name.startswith(TEMP) or orphan(path)]:
            with contextlib.suppress(OSError):
                newest = max(inner.lstat().st_mtime for inner in (path, *path.rglob("*")))
                if time.time() - newest > _STALE_S:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
