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

    Where there are too many, the oldest person of the owner with the most people goes first; where
    they are too large, that of the owner with the most bytes; of equals, the one who uploads. So a
    key that uploads without end, or uploads large photos, pushes out its own.

    Args:
        ttl: seconds that a person is kept.
        most: persons.
        most_bytes: of their embeddings and crops together.
        clock: seconds.
        changed: told the number of persons and their bytes.
    """

    def __init__(
        self,
        ttl: float,
        most: int,
        most_bytes: int = 2**62,
        clock: Callable[[], float] = time.monotonic,
        changed: Callable[[int, int], None] = lambda count, held: None,
    ) -> None:
        self._ttl, self._most, self._most_bytes, self._clock = ttl, most, most_bytes, clock
        self._changed = changed
        self._people: OrderedDict[str, tuple[float, Person]] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._held = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._people)

    def add(self, person: Person) -> None:
        """Keeps a person.

        Raises:
            ServiceError: 413, there is no room but that of others.
        """
        key = person.identity.identity_id
        with self._lock:
            self._drop_old()
            self._people[key] = (self._clock(), person)
            self._count(person, 1)
            while len(self._people) > self._most or self._held > self._most_bytes:
                self._drop_one(person.owner)
            if key not in self._people:
                message = "The person is larger than the memory that is left for this key."
                raise ServiceError(413, "person_too_large", message)

    def _count(self, person: Person, sign: int) -> None:
        self._held += sign * person.nbytes
        for counter, amount in ((self._counts, 1), (self._bytes, person.nbytes)):
            counter[person.owner] += sign * amount
            if not counter[person.owner]:
                del counter[person.owner]
        self._changed(len(self._people), self._held)

    def _drop(self, key: str) -> None:
        self._count(self._people.pop(key)[1], -1)

    def _drop_one(self, uploading: str) -> None:
        crowd = self._counts if len(self._people) > self._most else self._bytes
        greedy = max(crowd, key=lambda owner: (crowd[owner], owner == uploading))
        self._drop(next(k for k, (_, one) in self._people.items() if one.owner == greedy))

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
            if identity_id in self._people:
                self._drop(identity_id)

    def _drop_old(self) -> None:
        end = self._clock() - self._ttl
        while self._people and next(iter(self._people.values()))[0] <= end:
            self._drop(next(iter(self._people)))
