"""When to ask again, and what errors become."""

from __future__ import annotations

import random
from dataclasses import dataclass

import httpx

from infinite_id.client.errors import ServiceError

__all__ = ["FAILURES", "Retry", "failure", "raise_for_error"]

FAILURES = (ServiceError, httpx.TransportError)
"""What may end an attempt."""

_AGAIN = (429, 503)


@dataclass(frozen=True, slots=True)
class Retry:
    """Asks again after 429, 503 and refused connections.

    The waiting time doubles and is drawn between half and all of that, so that many clients do not
    come back together; it is never shorter than the service's Retry-After.

    Attributes:
        attempts: in all; 1: never asks again.
        first_wait: seconds before the second attempt.
        longest_wait: seconds; where Retry-After is longer, the error is raised at once.
    """

    attempts: int = 5
    first_wait: float = 0.5
    longest_wait: float = 30.0

    def wait(self, attempt: int, error: Exception) -> float | None:
        """Seconds to wait after attempt number `attempt` (from 1), None to give up."""
        told = 0.0
        if isinstance(error, ServiceError):
            if error.status not in _AGAIN:
                return None
            told = float(error.retry_after or 0)
        elif not isinstance(error, httpx.ConnectError):
            return None
        if attempt >= self.attempts or told > self.longest_wait:
            return None
        doubled = min(self.longest_wait, self.first_wait * 2 ** (attempt - 1))
        return max(told, doubled * random.uniform(0.5, 1.0))


def failure(error: Exception, server: str) -> Exception:
    """What the caller sees: ServiceError, TimeoutError or ConnectionError, one sentence each."""
    if isinstance(error, httpx.TimeoutException):
        return TimeoutError(f"{server} did not answer in time ({type(error).__name__}).")
    if isinstance(error, httpx.TransportError):
        return ConnectionError(f"{server} cannot be reached ({error or type(error).__name__}).")
    return error


def raise_for_error(response: httpx.Response) -> None:
    """Raises a ServiceError with the code and sentence of a read response other than 2xx."""
    if response.is_success:
        return
    try:
        error = response.json()["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        # A proxy's page, not the service's answer.
        code = f"http_{response.status_code}"
        message = f"The server answered {response.status_code} {response.reason_phrase}."
    told = response.headers.get("retry-after", "")
    retry_after = int(told) if told.isdecimal() else None
    raise ServiceError(response.status_code, code, message, retry_after)
