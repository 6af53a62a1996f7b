from __future__ import annotations

import pytest
import torch

from infinite_id.base import BaseModel
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.types import Identity
from tests.infinite_id.tiny import ADAPTER, tiny_base, tiny_identity


@pytest.fixture(scope="session")
def base() -> BaseModel:
    return tiny_base()


@pytest.fixture(scope="session")
def adapter(base: BaseModel) -> IdentityAdapter:
    torch.manual_seed(3)
    adapter = IdentityAdapter(ADAPTER, base.unet).eval()
    # Larger than a trained one's, so that what it does is far above rounding.
    for parameter in adapter.image.parameters():
        parameter.data.mul_(3.0)
    return adapter


@pytest.fixture(scope="session")
def people() -> dict[str, Identity]:
    return {name: tiny_identity(name) for name in ("ada", "bob", "cy", "dee")}
