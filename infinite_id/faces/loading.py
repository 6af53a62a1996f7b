"""The face backend of a name; each is imported only when it is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from infinite_id.faces.detection import FaceBackend

__all__ = ["embedded_faces", "load_face_backend"]


def load_face_backend(
    name_or_folder: str,
    *,
    root: str | Path | None = None,
    providers: Sequence[str] | None = None,
    threads: int = 1,
) -> FaceBackend:
    """The backend of that name.

    Args:
        name_or_folder: "embedded" (YuNet + SFace, from the installed package), an insightface
            pack name such as "antelopev2" (downloaded if it is missing: non-commercial
            licence), or a folder with a pack's ONNX files.
        root: where insightface keeps its packs, `~/.insightface` by default.
        providers: onnxruntime execution providers; CPU for "embedded" by default, for packs the
            GPU where this onnxruntime has one.
        threads: of each network on the CPU.

    Raises:
        ValueError: unknown pack or provider, or a folder without the two networks.
        PackageFileError: the embedded networks are not installed.
    """
    if name_or_folder == "embedded":
        from infinite_id.faces.embedded import EmbeddedFaces

        return EmbeddedFaces(providers=providers, threads=threads)
    from infinite_id.faces.insightface_pack import InsightFacePack

    return InsightFacePack(name_or_folder, root=root, providers=providers, threads=threads)


@lru_cache(maxsize=1)
def embedded_faces() -> FaceBackend:
    """The embedded backend, loaded once: it finds the faces in pictures that are being made."""
    return load_face_backend("embedded")
