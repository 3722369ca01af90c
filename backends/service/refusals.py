"""Ways in which the service refuses a request, each with its HTTP status.

They are RequestInvalid to the client; the status only serves those who read HTTP.
"""

from __future__ import annotations

from flux_core.errors import RequestInvalid


class Refused(RequestInvalid):
    """The request cannot be carried out as it stands."""

    status = 422


class Unknown(Refused):
    """There is no such job or blob."""

    status = 404


class Conflict(Refused):
    """The job is not in a state that allows this."""

    status = 409


class TooLarge(Refused):
    """More bytes than the service takes."""

    status = 413


class WrongOffset(Refused):
    """An upload does not go on where the last one stopped; `offset` says where that is, in bytes."""

    status = 416

    def __init__(self, message: str, hint: str, offset: int) -> None:
        super().__init__(message, hint)
        self.offset = offset


class NotAllowed(Refused):
    """The token is missing or wrong."""

    status = 401
