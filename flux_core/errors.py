"""What can go wrong, sorted by what the person can do about it.

Every error that may reach a person is a FluxError with one clear sentence (`message`) and the next
step (`hint`). Third-party exceptions are mapped to this family where they enter; `code` is the word
that travels in the service protocol and lets the other side rebuild the same class.
"""

from __future__ import annotations


class FluxError(Exception):
    """Base of the family.

    Args:
        message: What happened and where, one sentence, no stack trace.
        hint: What to do next, one sentence; may be empty.
    """

    code = "internal"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class RequestInvalid(FluxError):
    """The request cannot be carried out as written; change it."""

    code = "request_invalid"


class ModelMissing(FluxError):
    """A model or one of its files is not on this machine; get it or choose another."""

    code = "model_missing"


class Corrupt(FluxError):
    """A file is damaged, truncated or lies about its contents; replace it."""

    code = "corrupt"


class OutOfMemory(FluxError):
    """The device or the machine has too little memory; make the job smaller."""

    code = "out_of_memory"


class StorageFull(FluxError):
    """Nothing more can be written; free space or choose another place. The old file is untouched."""

    code = "storage_full"


class ConnectionLost(FluxError):
    """The service does not answer; wait or start it again."""

    code = "connection_lost"


class HostKeyMismatch(FluxError):
    """A remote host is not the one known under this name; do not go on without checking."""

    code = "host_key_mismatch"


class Cancelled(FluxError):
    """The person stopped the job."""

    code = "cancelled"


class EngineDied(FluxError):
    """The engine process ended in the middle of a job; the next job starts a new one."""

    code = "engine_died"


class Internal(FluxError):
    """A mistake of ours; report it."""

    code = "internal"


FAMILY: dict[str, type[FluxError]] = {
    cls.code: cls
    for cls in (
        RequestInvalid,
        ModelMissing,
        Corrupt,
        OutOfMemory,
        StorageFull,
        ConnectionLost,
        HostKeyMismatch,
        Cancelled,
        EngineDied,
        Internal,
    )
}


def from_code(code: str, message: str, hint: str = "") -> FluxError:
    """Rebuilds the error that `code` names; an unknown code becomes Internal."""
    return FAMILY.get(code, Internal)(message, hint)
