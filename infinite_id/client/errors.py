"""What the service answers when it does not do what was asked."""

from __future__ import annotations

from typing import Any

__all__ = ["ServiceError"]


class ServiceError(Exception):
    """An answer other than 2xx.

    Attributes:
        status: HTTP status.
        code: machine-readable and stable, e.g. "no_face".
        message: one sentence for people.
        retry_after: seconds after which to try again; None where that does not help.
        param: name of the request's field that is wrong; None where no single one is.
        details: more for a program, such as the faces of a photo that holds several.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        retry_after: int | None = None,
        param: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after, self.param, self.details = retry_after, param, details

    def __reduce__(self) -> tuple[type[ServiceError], tuple]:
        told = (self.status, self.code, self.message, self.retry_after, self.param, self.details)
        return type(self), told

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        return {"error": {"code": self.code, "message": self.message, **(self.details or {})}}
