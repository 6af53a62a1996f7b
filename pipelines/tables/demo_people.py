"""People for a first look: insightface's sample photos, from its installed package, and ours."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pyarrow as pa

from infinite_id.packages import PackageFile, package_file
from pipelines.tables.schemas import IDENTITIES
from pipelines.tables.table_checks import check_table

__all__ = ["PORTRAIT", "demo_identities", "sample_identities"]

_SOURCE = "insightface 2.1, data/images"
_LICENCE = "insightface's sample photos; not for redistribution"
_GROUP = PackageFile(
    "insightface",
    "2.1",
    "insightface/data/images/t1.jpg",
    "47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489",
    "MIT",
)
PORTRAIT = PackageFile(
    "insightface",
    "2.1",
    "insightface/data/images/Tom_Hanks_54745.png",
    "8545da294e8c7c79911169c3915fed8528f1960cd0ed99b92453788ca4275083",
    "MIT",
)


def demo_identities() -> pa.Table:
    """Seven people: the six of one group photo, left to right, and one portrait.

    Raises:
        PackageFileError: the insightface package is missing or ships other photos.
    """
    rows: list[dict[str, Any]] = [
        {"identity_id": f"group_{index}", "photo": _GROUP, "face_index": index}
        for index in range(6)
    ]
    rows.append({"identity_id": "portrait", "photo": PORTRAIT, "face_index": None})
    table = [
        {
            "identity_id": row["identity_id"],
            "photos": [{"uri": str(package_file(row["photo"])), "bytes": None}],
            "face_index": row["face_index"],
            "class_word": "person",
            "consent": "demonstration only",
            "licence": _LICENCE,
            "source": _SOURCE,
        }
        for row in rows
    ]
    return check_table(pa.Table.from_pylist(table), IDENTITIES, "the demo identities")


def sample_identities() -> pa.Table:
    """The six shipped people who do not exist, one photo of 64 px each."""
    folder = files("infinite_id") / "assets" / "samples"
    named = {one.name: one for one in folder.iterdir() if one.name.endswith(".png")}
    table = [
        {
            "identity_id": name.removesuffix(".png"),
            "photos": [{"uri": None, "bytes": photo.read_bytes()}],
            "class_word": "person",
            "consent": "nobody: these people do not exist",
            "licence": "by a GAN of DigiFace-1M, which is for non-commercial research",
            "source": "gan-face-generate",
        }
        for name, photo in sorted(named.items())
    ]
    return check_table(pa.Table.from_pylist(table), IDENTITIES, "the sample people")
