"""Whether a kernel of self-attention can be used here. Light: no torch."""

from __future__ import annotations

from importlib.util import find_spec

from infinite_id.config import AttentionKind, check_choice

__all__ = ["check_attention"]

# Of each its package and what that is imported as.
_PACKAGES = {"flash": ("flash-attn", "flash_attn"), "sage": ("sageattention", "sageattention")}


def check_attention(
    kind: AttentionKind, device: str | None = None, dtype: str | None = None
) -> None:
    """Refuses a kernel that cannot be used here.

    Args:
        kind: of the kernel.
        device, dtype: of the UNet, as torch calls them; None: not known yet.

    Raises:
        ValueError: its package is not installed, or it computes neither there nor so.
    """
    check_choice("attention", kind, AttentionKind)
    if kind == "sdpa":
        return
    package, module = _PACKAGES[kind]
    if find_spec(module) is None:
        raise ValueError(
            f"attention is {kind!r}, which needs the package {package}, not installed here, "
            "allowed: sdpa"
        )
    if device is not None and not device.startswith("cuda"):
        raise ValueError(
            f"attention is {kind!r}, which computes on a GPU alone, allowed on {device}: sdpa"
        )
    if dtype == "float32":
        raise ValueError(
            f"attention is {kind!r}, which computes in half precision alone, allowed with dtype "
            "float32: sdpa"
        )
