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
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        retry_after: int | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after, self.param = retry_after, param

    def __reduce__(self) -> tuple[type[ServiceError], tuple]:
        return type(self), (self.status, self.code, self.message, self.retry_after, self.param)

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        return {"error": {"code": self.code, "message": self.message}}
