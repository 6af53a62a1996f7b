"""Embedded people, kept for a while. Light: no torch and no networks."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from infinite_id.types import FaceRecord, Identity
from pipelines.serving.errors import ServiceError

__all__ = ["People", "Person"]


@dataclass(frozen=True, slots=True)
class Person:
    """Someone embedded: the identity, the faces found, the embedding's digest, whose it is.

    `photos` are JPEG files without metadata, where the caller asked that they be kept.
    """

    identity: Identity
    faces: tuple[FaceRecord, ...]
    digest: str
    owner: str
    photos: tuple[bytes, ...] = ()

    @property
    def nbytes(self) -> int:
        """Of the arrays and photos that are kept."""
        embedding = self.identity.embedding
        crops = sum(image.nbytes for image in self.identity.images)
        photos = sum(len(photo) for photo in self.photos)
        return embedding.face.nbytes + embedding.clip.nbytes + crops + photos


class People:
    """Persons by id, each for a while.

    Where there are too many, the oldest person of the owner with the most people goes first: a
    key that uploads without end pushes out its own.

    Args:
        ttl: seconds that a person is kept.
        most: persons.
        most_bytes: of their embeddings and crops together.
        clock: seconds.
    """

    def __init__(
        self,
        ttl: float,
        most: int,
        most_bytes: int = 2**62,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl, self._most, self._most_bytes, self._clock = ttl, most, most_bytes, clock
        self._people: OrderedDict[str, tuple[float, Person]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._people)

    def add(self, person: Person) -> None:
        """Keeps a person."""
        with self._lock:
            self._drop_old()
            self._people[person.identity.identity_id] = (self._clock(), person)
            held = sum(one.nbytes for _, one in self._people.values())
            while len(self._people) > self._most or held > self._most_bytes:
                held -= self._drop_one().nbytes

    def _drop_one(self) -> Person:
        counts = Counter(person.owner for _, person in self._people.values())
        greedy = counts.most_common(1)[0][0]
        key = next(key for key, (_, person) in self._people.items() if person.owner == greedy)
        return self._people.pop(key)[1]

    def get(self, identity_id: str, owner: str) -> Person:
        """The person of that id, if it is the owner's, without photos: few requests need them.

        Raises:
            ServiceError: 404, unknown, expired, or another key's.
        """
        return replace(self._find(identity_id, owner), photos=())

    def photo(self, identity_id: str, owner: str, number: int) -> bytes:
        """A photo that was kept, a JPEG file.

        Raises:
            ServiceError: as `get`; 404, there is no photo of that number.
        """
        photos = self._find(identity_id, owner).photos
        if not 0 <= number < len(photos):
            raise ServiceError(404, "no_photo", "There is no such photo, or it was not kept.")
        return photos[number]

    def _find(self, identity_id: str, owner: str) -> Person:
        with self._lock:
            self._drop_old()
            found = self._people.get(identity_id)
        if found is None or found[1].owner != owner:
            raise ServiceError(
                404, "unknown_identity", "The identity is unknown or has expired: upload it again."
            )
        return found[1]

    def remove(self, identity_id: str, owner: str) -> None:
        """Forgets a person; raises as `get`."""
        self._find(identity_id, owner)
        with self._lock:
            self._people.pop(identity_id, None)

    def _drop_old(self) -> None:
        end = self._clock() - self._ttl
        while self._people and next(iter(self._people.values()))[0] <= end:
            self._people.popitem(last=False)
