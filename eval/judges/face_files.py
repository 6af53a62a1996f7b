"""Judges of identity from files that a user gives: ArcFace and AdaFace.

Both read aligned faces of 112 px. They differ in what they are fed:

- ArcFace (Deng et al. 2019): an insightface pack, of which the recognition network is taken, or one
  ONNX file. insightface prepares the pixels: RGB, (x - 127.5) / 127.5, or as they are where the
  graph does that itself.
- AdaFace (Kim et al. 2022): (x / 255 - 0.5) / 0.5, channels first. An ONNX file whose first output
  is the embedding (N, D), or safetensors of the authors' IR networks (`eval.judges.ir_net`). Those
  of their repository AdaFace read BGR; those of CVLFace, which followed it, were trained anew and
  read RGB. The names in a safetensors file tell the two apart; of an ONNX file BGR is assumed.

Neither file is shipped: both networks were trained on photos collected from the web, and their
publishers limit their use.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eval.vectors import unit_rows
from infinite_id.faces.alignment import ALIGNED_SIZE
from infinite_id.faces.onnx_files import onnx_session, session_options
from infinite_id.packages import file_digest

__all__ = ["AdaFace", "ArcFace", "Channels"]

Features = NDArray[np.float32]
Channels = Literal["bgr", "rgb"]
_SUFFIXES = (".onnx", ".safetensors")
_CVLFACE = "net."  # where CVLFace's networks have their weights; AdaFace's have "model." or none


class ArcFace:
    """ArcFace embeddings of aligned faces.

    Args:
        address: an ONNX file, a folder with an insightface pack, or a pack's name.
        threads: of the network, on the CPU.

    Attributes:
        revision: names the weights.
        digest: SHA-256 of the network's file.

    Raises:
        ValueError: no such file or pack, or it holds no recognition network of 112 px.
    """

    name = "ArcFace"

    def __init__(self, address: str, *, threads: int = 1) -> None:
        self._model = _arcface(address, threads)
        self.digest = file_digest(self._model.model_file)
        self.revision = f"arcface-{Path(self._model.model_file).stem}-{self.digest[:8]}"

    def embed(self, crops: list[NDArray[np.uint8]]) -> Features:
        """float32 (N, D), unit L2 norm, of N aligned faces uint8 (112, 112, 3) RGB."""
        # One at a time: some packs fix the batch at 1. insightface takes BGR and turns it round.
        found = [self._model.get_feat(np.ascontiguousarray(crop[:, :, ::-1])) for crop in crops]
        if not found:
            return np.empty((0, 0), np.float32)
        return unit_rows(np.concatenate(found)).astype(np.float32)


class AdaFace:
    """AdaFace embeddings of aligned faces.

    Args:
        address: an ONNX or safetensors file.
        threads: of the network, on the CPU; safetensors keep to torch's own.
        channels: "bgr" or "rgb", the order that the network reads; None: by the file.

    Attributes:
        revision: names the weights and the order of the channels.

    Raises:
        ValueError: no such file, or it holds no network of this form.
    """

    name = "AdaFace"

    def __init__(self, address: str, *, threads: int = 1, channels: Channels | None = None) -> None:
        path = _file("adaface", address, _SUFFIXES)
        told: Channels = "bgr"
        try:
            if path.suffix == ".onnx":
                self._run = _onnx_network(path, threads)
            else:
                from eval.judges.ir_net import load_ir_net

                self._run, prefix = load_ir_net(path)
                if prefix.endswith(_CVLFACE):
                    told = "rgb"
        except ValueError:
            raise
        except Exception as error:  # onnxruntime's and safetensors' own, by version
            raise ValueError(_unreadable("adaface", path, error)) from error
        self.digest = file_digest(path)
        self._channels = channels or told
        self.revision = f"adaface-{path.stem}-{self.digest[:8]}-{self._channels}"

    def embed(self, crops: list[NDArray[np.uint8]]) -> Features:
        """float32 (N, D), unit L2 norm, of N aligned faces uint8 (112, 112, 3) RGB."""
        if not crops:
            return np.empty((0, 0), np.float32)
        fed = (adaface_pixels(crop, self._channels) for crop in crops)
        return unit_rows(np.concatenate([self._run(pixels) for pixels in fed])).astype(np.float32)


def adaface_pixels(crop: NDArray[np.uint8], channels: Channels = "bgr") -> Features:
    """float32 (1, 3, 112, 112) in [-1, 1] of an aligned face uint8 (112, 112, 3) RGB."""
    ordered = crop[:, :, ::-1] if channels == "bgr" else crop
    pixels = (ordered.astype(np.float32) / 255 - 0.5) / 0.5
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def _arcface(address: str, threads: int) -> Any:
    """insightface's object of the recognition network."""
    from insightface.model_zoo import get_model

    from infinite_id.faces.insightface_pack import recognition_network

    if not address.endswith(".onnx"):
        return recognition_network(address, threads=threads)
    path = _file("arcface", address, (".onnx",))
    options = session_options(threads)
    try:
        model = get_model(str(path), providers=["CPUExecutionProvider"], sess_options=options)
    except Exception as error:  # onnxruntime's own, by version
        raise ValueError(_unreadable("arcface", path, error)) from error
    if getattr(model, "taskname", None) != "recognition":
        raise ValueError(
            f"judge arcface is {address!r}, which insightface takes for no recognition network, "
            "allowed: an ONNX file with one square input of 112 px"
        )
    return model


def _onnx_network(path: Path, threads: int) -> Callable[[Features], Features]:
    session = onnx_session(path, threads=threads)
    given = session.get_inputs()
    side = ALIGNED_SIZE
    if len(given) != 1 or list(given[0].shape[1:]) != [3, side, side]:
        shapes = ", ".join(str(one.shape) for one in given)
        raise ValueError(
            f"judge adaface is {str(path)!r} with the input {shapes}, allowed: one of "
            f"(N, 3, {side}, {side})"
        )
    name, first = given[0].name, session.get_outputs()[0].name

    def run(pixels: Features) -> Features:
        (embedding,) = session.run([first], {name: pixels})
        return np.asarray(embedding, dtype=np.float32).reshape(len(pixels), -1)

    return run


def _file(judge: str, address: str, suffixes: tuple[str, ...]) -> Path:
    path = Path(address)
    if path.suffix not in suffixes or not path.is_file():
        reason = "does not exist" if path.suffix in suffixes else "is no such file"
        raise ValueError(
            f"judge {judge} is {address!r}, which {reason}, allowed: a file that ends in "
            f"{' or '.join(suffixes)}"
        )
    return path


def _unreadable(judge: str, path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return f"judge {judge} is {str(path)!r}, which cannot be read as its network: {reason}"
