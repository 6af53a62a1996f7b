from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from infinite_id.base import BaseModel
from infinite_id.identity.adapter import IdentityAdapter, request_tokens
from infinite_id.identity.mappers import FaceMapper, IdentityProjector, interpolate, stack
from infinite_id.types import Identity, IdentityMix
from tests.infinite_id.tiny import ADAPTER, CLIP_TOKENS, tiny_identity, tiny_request

FACE_TOKENS = ADAPTER.face_tokens


def mixed(
    adapter: IdentityAdapter,
    people: dict[str, Identity],
    parts: tuple[tuple[str, float], ...],
    mode: Literal["interpolate", "stack"] = "interpolate",
) -> Tensor:
    request = tiny_request(identity_id="mix", mix=IdentityMix(parts, mode))
    return request_tokens(adapter, [request], people)[0]


def test_image_tokens_come_first_then_face_tokens() -> None:
    torch.manual_seed(0)
    projector = IdentityProjector(ADAPTER)
    face, clip = torch.randn(3, ADAPTER.face_width), torch.randn(3, 5, ADAPTER.clip_width)
    tokens = projector(face, clip)
    assert tokens.shape == (3, 5 + FACE_TOKENS, ADAPTER.cross_attention_dim)
    other_face = projector(face + 1, clip)
    torch.testing.assert_close(other_face[:, :5], tokens[:, :5])
    assert (other_face[:, 5:] - tokens[:, 5:]).abs().max() > 1e-3


def test_a_fresh_mapper_tells_unit_vectors_apart() -> None:
    torch.manual_seed(0)
    mapper = FaceMapper(128, tokens=4, width=64, hidden=256)
    people = torch.nn.functional.normalize(torch.randn(50, 128), dim=-1)
    tokens = mapper(people).flatten(1)
    # What all of them share is the smaller part; with torch's own initialisation it is most.
    assert tokens.var(dim=0).sum() > 0.5 * tokens.square().sum(dim=1).mean()


def test_each_image_token_is_mapped_alone() -> None:
    projector = IdentityProjector(ADAPTER)
    clip = torch.randn(1, 5, ADAPTER.clip_width)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(projector.clip(clip[:, order]), projector.clip(clip)[:, order])


def test_several_photos_stack_their_image_tokens(adapter: IdentityAdapter) -> None:
    three = tiny_identity("ada", photos=3).embedding
    tokens = adapter.tokens(three)
    assert tokens.shape[0] == 3 * CLIP_TOKENS + FACE_TOKENS
    second = replace(three, clip=three.clip[CLIP_TOKENS : 2 * CLIP_TOKENS])
    torch.testing.assert_close(
        adapter.tokens(second)[:CLIP_TOKENS], tokens[CLIP_TOKENS : 2 * CLIP_TOKENS]
    )


def test_nobody_is_the_projection_of_zeros(adapter: IdentityAdapter) -> None:
    expected = adapter.projector(
        torch.zeros(1, ADAPTER.face_width), torch.zeros(1, CLIP_TOKENS, ADAPTER.clip_width)
    )[0]
    torch.testing.assert_close(adapter.null_tokens(CLIP_TOKENS), expected)


@pytest.mark.parametrize(("weight", "name"), [(1.0, "ada"), (0.0, "bob")])
def test_interpolation_ends_at_each_person(
    adapter: IdentityAdapter, people: dict[str, Identity], weight: float, name: str
) -> None:
    found = mixed(adapter, people, (("ada", weight), ("bob", 1 - weight)))
    torch.testing.assert_close(found, adapter.tokens(people[name].embedding))


def test_interpolation_is_symmetric(adapter: IdentityAdapter, people: dict[str, Identity]) -> None:
    one = mixed(adapter, people, (("ada", 0.3), ("bob", 0.7)))
    other = mixed(adapter, people, (("bob", 0.7), ("ada", 0.3)))
    torch.testing.assert_close(one, other)


def test_three_people_with_weights_outside_the_unit_interval(
    adapter: IdentityAdapter, people: dict[str, Identity]
) -> None:
    found = mixed(adapter, people, (("ada", 1.5), ("bob", -1.0), ("cy", 0.5)))
    own = [adapter.tokens(people[name].embedding).double() for name in ("ada", "bob", "cy")]
    expected = 1.5 * own[0] - own[1] + 0.5 * own[2]
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_stack_holds_every_persons_tokens(
    adapter: IdentityAdapter, people: dict[str, Identity]
) -> None:
    found = mixed(adapter, people, (("ada", 1.0), ("bob", 1.0)), "stack")
    own = [adapter.tokens(people[name].embedding) for name in ("ada", "bob")]
    torch.testing.assert_close(found, torch.cat(own))


def test_a_person_is_projected_once_however_many_requests(
    adapter: IdentityAdapter, people: dict[str, Identity]
) -> None:
    requests = [tiny_request(sample_id=str(n)) for n in range(3)]
    tokens = request_tokens(adapter, requests, people)
    assert tokens[0] is tokens[1] is tokens[2]


def test_mappers_and_projections_get_gradients(base: BaseModel) -> None:
    adapter = IdentityAdapter(ADAPTER, base.unet)
    keys = adapter.image(
        adapter.projector(torch.randn(2, ADAPTER.face_width), torch.randn(2, 5, ADAPTER.clip_width))
    )
    sum(part.square().sum() for pair in keys for part in pair).backward()  # type: ignore[union-attr]
    without = [name for name, p in adapter.named_parameters() if p.grad is None]
    assert without == []


def test_projections_begin_as_the_layers_own(base: BaseModel) -> None:
    adapter = IdentityAdapter(ADAPTER, base.unet)
    layer = adapter.image.layers[1]
    tokens = torch.randn(2, 3, ADAPTER.cross_attention_dim)
    own = base.unet.get_submodule(layer)
    torch.testing.assert_close(adapter.image(tokens)[1].key, own.to_k(tokens))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"face": np.full(16, np.nan, np.float32)}, "face embedding holds NaN"),
        ({"clip": np.full((5, 24), np.inf, np.float16)}, "image tokens holds NaN or infinity"),
        ({"face": np.zeros(9, np.float32)}, "face embedding .* is 9 wide, allowed: 16"),
        ({"clip": np.zeros((5, 25), np.float16)}, "image tokens .* is 25 wide, allowed: 24"),
    ],
)
def test_bad_embeddings(adapter: IdentityAdapter, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapter.tokens(replace(tiny_identity("ada").embedding, **change))


def test_bad_mixes(adapter: IdentityAdapter, people: dict[str, Identity]) -> None:
    with pytest.raises(ValueError, match="identity is 'zoe', allowed: ada, bob, cy, dee"):
        mixed(adapter, people, (("ada", 0.5), ("zoe", 0.5)))
    with pytest.raises(ValueError, match=r"mix weights are .*nan.*, allowed: finite"):
        mixed(adapter, people, (("ada", float("nan")), ("bob", 0.5)))
    with pytest.raises(ValueError, match=r"shapes .*\(7, 64\), \(12, 64\).*, allowed: one shape"):
        interpolate([torch.zeros(7, 64), torch.zeros(12, 64)], [0.5, 0.5])
    with pytest.raises(ValueError, match="0 people have 0 weights"):
        interpolate([], [])
    assert stack([torch.zeros(2, 3)]).shape == (2, 3)


def test_a_mix_of_people_with_fewer_and_more_photos(
    adapter: IdentityAdapter, people: dict[str, Identity]
) -> None:
    """Those of fewer count again, from the first."""
    three, two = (tiny_identity("more", photos=number) for number in (3, 2))
    clip = two.embedding.clip
    wrapped = np.concatenate([clip, clip[:CLIP_TOKENS]])
    again = replace(two, embedding=replace(two.embedding, clip=wrapped))
    known = people | {"three": three, "two": two, "again": again}
    found = mixed(adapter, known, (("three", 0.3), ("two", 0.7)))
    torch.testing.assert_close(found, mixed(adapter, known, (("three", 0.3), ("again", 0.7))))
    alone = mixed(adapter, known, (("three", 1.0), ("ada", 0.0)))
    torch.testing.assert_close(alone, adapter.tokens(three.embedding))


def test_width_of_another_base_model(base: BaseModel) -> None:
    with pytest.raises(ValueError, match="identity tokens 32 wide, allowed: 64"):
        IdentityAdapter(replace(ADAPTER, cross_attention_dim=32), base.unet)
