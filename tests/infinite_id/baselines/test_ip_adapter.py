"""IP-Adapter with image tokens on the two-stream sampler."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from infinite_id.config import preset
from infinite_id.methods import METHODS
from tests.infinite_id.baselines.conftest import person, request

# The tests' base is smaller than the pocket model, whose shipped adapters do not fit it.
FAMILY = replace(preset("pocket"), base="tiny", allow_untrained=True)


@pytest.fixture(scope="module")
def made(base):
    from infinite_id.baselines.ip_adapter import ip_adapter

    return ip_adapter(METHODS["ip_adapter"], FAMILY, base)


def test_rows_are_independent_and_personal(made, people):
    both = made.generate([request("a"), request("b")], people)
    alone = made.generate([request("b")], people)[0].image.astype(int)
    assert np.abs(both[1].image - alone).max() <= 1
    assert (both[0].image != both[1].image).any()


def test_the_face_embedding_is_not_read(made, people):
    embedding = replace(people["a"].embedding, face=person("x", 9).embedding.face)
    other = {"a": replace(people["a"], embedding=embedding)}
    first, second = (made.generate([request("a")], group)[0].image for group in (people, other))
    assert (first == second).all()


def test_the_face_variant_reads_the_face(base, people):
    from infinite_id.baselines.ip_adapter import ip_adapter_face

    made = ip_adapter_face(METHODS["ip_adapter_face"], FAMILY, base)
    embedding = replace(people["a"].embedding, face=person("x", 9).embedding.face)
    other = {"a": replace(people["a"], embedding=embedding)}
    first, second = (made.generate([request("a")], group)[0].image for group in (people, other))
    assert (first != second).any()
