"""What a job prints: kept up to a cap, drained beyond it, and made safe to show on a terminal."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import re
from pathlib import Path
from typing import BinaryIO

TAIL_BYTES = 4096
NOTICE_BYTES = 128  # room kept for the line that says how much was dropped

# Escape sequences as a whole where they are complete, then every control character but tab and newline (C1 and the
# marks that reverse the reading direction too): what is left cannot move a cursor or hide text.
_UNSAFE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def plain(text: str) -> str:
    """Text without terminal control; a carriage return becomes a new line, so that progress bars stay readable."""
    return _UNSAFE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: str, limit: int = 300) -> str:
    """Text on one line of at most `limit` characters, free of control characters."""
    # Lone surrogates are spelled out: a terminal or a file would refuse them.
    line = " ".join(plain(text.encode(errors="backslashreplace").decode()).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def log_name(key: str) -> str:
    """File name of a job's log: the key where it is a plain name, else a slug of it and a hash."""
    slug = re.sub(r"[^A-Za-z0-9._-]", "-", key)[:100]
    if slug != key:
        slug += "-" + hashlib.sha256(key.encode(errors="backslashreplace")).hexdigest()[:12]
    return slug + ".log"


class Log:
    """The output of one job. Memory is bounded by the tail, the file by `cap` bytes, whatever is fed."""

    def __init__(self, cap: int, path: Path | None) -> None:
        self._room = max(0, cap - TAIL_BYTES - NOTICE_BYTES)
        self._path = path
        self._file: BinaryIO | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._tail = b""
        self._dropped = 0

    def feed(self, chunk: bytes) -> None:
        """Take what was read from the job's output."""
        self._tail = (self._tail + chunk)[-2 * TAIL_BYTES :]
        if self._path is None:
            return
        if self._room == 0:
            self._dropped += len(chunk)
            return
        clean = plain(self._decoder.decode(chunk)).encode()
        kept = clean[: self._room]
        self._room -= len(kept)
        self._dropped += len(clean) - len(kept)
        self._write(kept)

    def close(self) -> str:
        """End the file and return the tail."""
        # Bytes are cut anywhere, characters are not: what is left of a character at the front is ignored.
        tail = (
            plain(self._tail.decode(errors="replace")).lstrip("\ufffd").encode()[-TAIL_BYTES:].decode(errors="ignore")
        )
        if self._dropped:
            # The end is where the traceback is, so it is kept even when the middle is not.
            self._write(f"\n[log capped: {self._dropped} bytes not kept; the end follows]\n{tail}".encode())
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        return tail

    def _write(self, data: bytes) -> None:
        if self._path is None or not data:
            return
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("wb")
            self._file.write(data)
        except OSError:
            self._path = None  # a full disk costs the log, never the result
