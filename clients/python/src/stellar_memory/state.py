"""What outlives a connection: the last change that was seen, and the operations that nobody acknowledged."""

from __future__ import annotations

import errno
import json
import os
import sys
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

Frame = dict[str, Any]

COMPACT_AFTER = 10_000


@dataclass
class Saved:
    """What a state holds."""

    seq: int | None = None
    operations: dict[str, Frame] = field(default_factory=dict)
    """By op_id, in the order in which they were made."""


class State(Protocol):
    """Where a `Sync` keeps what must outlive it. One `Sync` at a time uses a state."""

    def load(self) -> Saved:
        """All of it, at the start."""

    def add(self, operation: Frame) -> None:
        """An operation was made. Durable when this returns."""

    def done(self, op_id: str) -> None:
        """It is decided. Forgetting this is harmless: the operation is sent again, and answered as before."""

    def seen(self, seq: int) -> None:
        """All changes up to this one were seen. Forgetting this is harmless: they are seen again."""

    def close(self) -> None:
        """The `Sync` is done with it."""


class MemoryState:
    """Outlives connections, but not the process."""

    def __init__(self) -> None:
        self.saved = Saved()

    def load(self) -> Saved:
        return Saved(self.saved.seq, dict(self.saved.operations))

    def add(self, operation: Frame) -> None:
        self.saved.operations[operation["op_id"]] = operation

    def done(self, op_id: str) -> None:
        self.saved.operations.pop(op_id, None)

    def seen(self, seq: int) -> None:
        self.saved.seq = seq

    def close(self) -> None:
        pass


class FileState(MemoryState):
    """A journal in a file, for one process at a time. `add` waits for the disk.

    A line that is none, as one that a crash cut off, is passed over; the file is written anew when it has grown. It holds what was stored and
    not acknowledged, so only its owner may read it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self._path = Path(path)
        self._file: FileIO | None = None
        self._lines = 0

    def load(self) -> Saved:
        self.saved = Saved()
        # Line ends are those of the journal alone: a text may hold others.
        lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            match entry:
                case {"add": {"op_id": str()} as operation}:
                    super().add(operation)
                case {"done": str() as op_id}:
                    super().done(op_id)
                case {"seen": int() as seq}:
                    super().seen(seq)
        self._compact()
        return super().load()

    def add(self, operation: Frame) -> None:
        self._write({"add": operation}, durable=True)
        super().add(operation)

    def done(self, op_id: str) -> None:
        super().done(op_id)
        self._write({"done": op_id})

    def seen(self, seq: int) -> None:
        super().seen(seq)
        self._write({"seen": seq})

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, entry: Frame, durable: bool = False) -> None:
        if self._lines > COMPACT_AFTER + 2 * len(self.saved.operations):
            self._compact()
        if self._file is None:
            self._file = self._open(self._path, os.O_APPEND)
        try:
            self._put(self._file, entry)
        except OSError:
            # Half a line may be there, and the next one must not be joined to it.
            self._lines = sys.maxsize
            raise
        if durable:
            os.fsync(self._file.fileno())

    def _compact(self) -> None:
        """Writes what holds beside the journal and puts it in its place."""
        self.close()
        self._lines = 0
        beside = self._path.with_name(self._path.name + ".new")
        with self._open(beside, os.O_TRUNC) as file:
            if self.saved.seq is not None:
                self._put(file, {"seen": self.saved.seq})
            for operation in self.saved.operations.values():
                self._put(file, {"add": operation})
            os.fsync(file.fileno())
        os.replace(beside, self._path)

    def _put(self, file: FileIO, entry: Frame) -> None:
        line = json.dumps(entry).encode() + b"\n"
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, "the journal could not be written whole", str(self._path))
        self._lines += 1

    @staticmethod
    def _open(path: Path, how: int) -> FileIO:
        return FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600), "w")
