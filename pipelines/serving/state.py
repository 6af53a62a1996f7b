"""What the ingress replicas share: embedded people and the rates of keys.

Kept in this process, or by the one replica of a Ray Serve deployment; one interface for both.
Light: no torch and no networks.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from pipelines.serving.config import ServiceConfig
from pipelines.serving.errors import ServiceError, overloaded
from pipelines.serving.keys import RateLimit
from pipelines.serving.measures import Measures
from pipelines.serving.people import People, Person
from pipelines.serving.worker import Deadline

__all__ = ["LocalState", "RayState", "State"]

# A replica that has died is noticed, and another one started, in less.
_PATIENCE_SECONDS = 20.0


class State(Protocol):
    """Embedded people and the rates of keys.

    Every method raises a ServiceError: as `People` and `RateLimit`; 503 where the state cannot be
    asked, 504 where the deadline comes first.
    """

    async def add(self, deadline: Deadline, person: Person) -> None: ...

    async def get(self, deadline: Deadline, identity_id: str, owner: str) -> Person: ...

    async def photo(
        self, deadline: Deadline, identity_id: str, owner: str, number: int
    ) -> bytes: ...

    async def remove(self, deadline: Deadline, identity_id: str, owner: str) -> None: ...

    async def take(self, deadline: Deadline, owner: str) -> None: ...


class LocalState:
    """In this process; it answers at once.

    Args:
        config: bounds of people, and the rate of a key.
        measures: of this process.
    """

    def __init__(self, config: ServiceConfig, measures: Measures) -> None:
        def changed(count: int, held: int) -> None:
            measures.record("people", count)
            measures.record("people_bytes", held)

        self.people = People(
            config.identity_ttl_seconds,
            config.max_identities,
            config.max_identity_bytes,
            changed=changed,
        )
        self.rates = RateLimit(config.requests_per_minute)

    async def add(self, deadline: Deadline, person: Person) -> None:
        """See `People.add`."""
        self.people.add(person)

    async def get(self, deadline: Deadline, identity_id: str, owner: str) -> Person:
        """See `People.get`."""
        return self.people.get(identity_id, owner)

    async def photo(self, deadline: Deadline, identity_id: str, owner: str, number: int) -> bytes:
        """See `People.photo`."""
        return self.people.photo(identity_id, owner, number)

    async def remove(self, deadline: Deadline, identity_id: str, owner: str) -> None:
        """See `People.remove`."""
        self.people.remove(identity_id, owner)

    async def take(self, deadline: Deadline, owner: str) -> None:
        """See `RateLimit.take`."""
        self.rates.take(owner)


class RayState:
    """The state replica of Ray Serve.

    Args:
        handle: of a deployment whose `ask` is that of `pipelines.serve.SharedState`.
        limited: whether keys have a rate; without one nobody is asked for it.
        patience: seconds after which a replica that does not answer is given up.
    """

    def __init__(self, handle: Any, limited: bool, patience: float = _PATIENCE_SECONDS) -> None:
        self._handle, self._limited, self._patience = handle, limited, patience

    async def add(self, deadline: Deadline, person: Person) -> None:
        """See `People.add`."""
        await self._ask(deadline, "add", person)

    async def get(self, deadline: Deadline, identity_id: str, owner: str) -> Person:
        """See `People.get`."""
        return await self._ask(deadline, "get", identity_id, owner)

    async def photo(self, deadline: Deadline, identity_id: str, owner: str, number: int) -> bytes:
        """See `People.photo`."""
        return await self._ask(deadline, "photo", identity_id, owner, number)

    async def remove(self, deadline: Deadline, identity_id: str, owner: str) -> None:
        """See `People.remove`."""
        await self._ask(deadline, "remove", identity_id, owner)

    async def take(self, deadline: Deadline, owner: str) -> None:
        """See `RateLimit.take`."""
        if self._limited:
            await self._ask(deadline, "take", owner)

    async def _ask(self, deadline: Deadline, *asked: Any) -> Any:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        # A replica that dies costs one more attempt: the next one has forgotten everybody, but
        # knows how to say so, and can keep a new person.
        for _ in range(2):
            answer = self._handle.ask.remote(*asked)
            try:
                told = await asyncio.wait_for(answer, min(deadline.left, self._patience))
            except BackPressureError:
                raise overloaded("requests") from None
            except TimeoutError:
                answer.cancel()
                if not deadline.left:
                    raise deadline.error() from None
                break
            except (RayActorError, DeploymentUnavailableError):
                continue
            if isinstance(told, ServiceError):
                raise told
            return told
        message = "The memory of people and rates cannot be asked: try again."
        raise ServiceError(503, "state_lost", message, 5)
