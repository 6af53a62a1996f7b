"""What an actor computes on."""

from __future__ import annotations

__all__ = ["check_device", "torch_device"]


def torch_device(gpus: float) -> str:
    """A GPU where an actor has reserved one or a share of one, else the CPU.

    Ray shows every card of the machine to actors that have reserved none, so what torch sees says
    nothing of what is theirs.
    """
    return "cuda" if gpus else "cpu"


def check_device(device: str) -> None:
    """Refuses a GPU that torch does not see; called in the actor, since it imports torch.

    Raises:
        ValueError: one sentence.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"an actor has reserved a GPU and torch {torch.__version__} sees none, allowed: a "
            "machine with a GPU and a torch that is built for it, or generation_gpus: 0"
        )
