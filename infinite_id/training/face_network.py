"""SFace as a differentiable module, for losses on what a recognition network sees.

It is the network that conditions the pocket model; the judge of the evaluation takes no part in
training. Needs torch and numpy alone: a data pack carries the network to machines without OpenCV
and ONNX (`arrays`, `from_arrays`); elsewhere `face_network_file` reads the embedded one's file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from infinite_id.faces.alignment import ALIGNED_SIZE, ARCFACE_TEMPLATE, similarity_transform

__all__ = ["Affine", "FrozenPReLU", "TorchSFace", "align", "align_matrices"]

# Of the layers: the last activations of 128 x 56 x 56, 256 x 28 x 28, 512 x 14 x 14, 1024 x 7 x 7.
_INNER = (15, 23, 47, 55)


class TorchSFace(nn.Module):
    """Frozen SFace: aligned faces (B, 3, 112, 112), RGB in [0, 255], to unit vectors (B, 128).

    Args:
        layers: as they follow each other; of `face_network_file.load_face_network`.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.requires_grad_(False).eval()
        # In bfloat16 a fifth faster than torch's own order.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> TorchSFace:
        """The network of what `arrays` gave.

        Raises:
            KeyError: an array is missing.
            ValueError: a layer of a kind that is not known.
        """
        layers: list[nn.Module] = []
        for number, kind in enumerate(arrays["kinds"].tolist()):
            if kind not in _KINDS:
                raise ValueError(f"layer is {kind!r}, allowed: {', '.join(_KINDS)}")
            prefix = f"{number}/"
            own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            layers.append(_built(kind, own))
        return cls(layers)

    def arrays(self) -> dict[str, NDArray]:
        """The network as plain arrays, weights in half precision: 19 MB."""
        found: dict[str, NDArray] = {}
        kinds = []
        for number, layer in enumerate(self.layers):
            kinds.append(type(layer).__name__)
            if isinstance(layer, nn.Conv2d):
                settings = [*layer.stride, *layer.padding, layer.groups]
                found[f"{number}/settings"] = np.array(settings, np.int64)
            for name, tensor in layer.state_dict().items():
                found[f"{number}/{name}"] = tensor.contiguous().cpu().numpy().astype(np.float16)
        return {"kinds": np.array(kinds), **found}

    def forward(self, faces: Tensor) -> Tensor:
        """Unit vectors (B, 128) of faces (B, 3, 112, 112)."""
        return self.seen(faces)[-1]

    def seen(self, faces: Tensor) -> list[Tensor]:
        """Activations (B, C, h, w) from shallow to deep, then the unit vectors (B, 128)."""
        kept = []
        for number, layer in enumerate(self.layers):
            faces = layer(faces)
            if number in _INNER:
                kept.append(faces)
        return [*kept, F.normalize(faces, dim=-1)]


def align_matrices(landmarks: NDArray[np.float32]) -> Tensor:
    """float32 (B, 2, 3): pixels of an aligned face to pixels of the picture with those landmarks.

    Args:
        landmarks: (B, 5, 2), x y in pixels of the picture.
    """
    rows = []
    for points in landmarks:
        matrix = np.vstack([similarity_transform(points, ARCFACE_TEMPLATE), [0, 0, 1]])
        rows.append(np.linalg.inv(matrix)[:2])
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def align(pictures: Tensor, matrices: Tensor) -> Tensor:
    """(B, 3, 112, 112): `infinite_id.faces.detection.align_face` with gradients, zero outside.

    Args:
        pictures: (B, 3, H, W).
        matrices: of `align_matrices`.
    """
    axis = torch.arange(ALIGNED_SIZE, dtype=torch.float32, device=pictures.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    source = torch.einsum("bij,hwj->bhwi", matrices.to(pictures.device), points)
    size = torch.tensor([pictures.shape[3], pictures.shape[2]], device=pictures.device)
    grid = (2 * source + 1) / size - 1
    return F.grid_sample(pictures, grid.to(pictures.dtype), align_corners=False)


class Affine(nn.Module):
    """`x * scale + shift` of every value, or of every channel.

    Args:
        scale, shift: numbers, or (C,).
    """

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", scale.float().view(-1, 1, 1))
        self.register_buffer("shift", shift.float().view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype) + self.shift.to(x.dtype)


class FrozenPReLU(nn.Module):
    """PReLU with slopes (C,) that get no gradient; torch's own takes time for it all the same."""

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        self.slopes: Tensor
        self.register_buffer("slopes", (1 - slopes).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.slopes.to(x.dtype) * torch.relu(-x)


_KINDS = ("Affine", "Conv2d", "Flatten", "FrozenPReLU", "Linear")


def _built(kind: str, arrays: Mapping[str, NDArray]) -> nn.Module:
    tensors = {name: torch.from_numpy(a) for name, a in arrays.items() if name != "settings"}
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    if kind == "Flatten":
        return nn.Flatten()
    if kind == "Affine":
        return Affine(tensors["scale"], tensors["shift"])
    if kind == "FrozenPReLU":
        return FrozenPReLU(1 - tensors["slopes"].flatten())
    weight = tensors["weight"]
    layer: nn.Module
    if kind == "Linear":
        layer = nn.Linear(weight.shape[1], weight.shape[0])
    else:
        across, down, top, left, groups = arrays["settings"].tolist()
        layer = nn.Conv2d(
            weight.shape[1] * groups,
            weight.shape[0],
            (weight.shape[2], weight.shape[3]),
            stride=(across, down),
            padding=(top, left),
            groups=groups,
            bias="bias" in tensors,
        )
    layer.load_state_dict(tensors)
    return layer
