"""Client of stellar-memory: REST (`Client`) and sync (`Client.sync`), which reconnects, resumes and queues offline."""

from .backoff import Backoff
from .client import Client
from .errors import (
    ApiError,
    InvalidValue,
    QueueFull,
    Refused,
    ResyncRequired,
    StellarError,
    SyncClosed,
    TooLarge,
    Unreachable,
)
from .outbox import Ack, Operation
from .replica import Replica
from .state import FileState, MemoryState, Saved, State
from .sync import Change, Sync

__all__ = [
    "Ack",
    "ApiError",
    "Backoff",
    "Change",
    "Client",
    "FileState",
    "InvalidValue",
    "MemoryState",
    "Operation",
    "QueueFull",
    "Refused",
    "Replica",
    "ResyncRequired",
    "Saved",
    "State",
    "StellarError",
    "Sync",
    "SyncClosed",
    "TooLarge",
    "Unreachable",
]
