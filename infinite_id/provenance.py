"""The mark in a picture's file that a model made it, and how: XMP, as IPTC describes it. Light."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from infinite_id.types import AI_GENERATED

__all__ = ["XMP_KEYWORD", "Provenance", "xmp_packet"]

XMP_KEYWORD = "XML:com.adobe.xmp"
"""Of the iTXt chunk that holds XMP in a PNG."""

_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    f'Iptc4xmpExt:DigitalSourceType="{AI_GENERATED}"%s/></rdf:RDF></x:xmpmeta>'
)
# XML 1.0 has no way to write these, not even escaped.
_NO_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a picture was made, for its file's metadata.

    Attributes:
        sample_id: names all that determines the picture; None outside a run.
        method: entry of METHODS.
        model_revision: of weights and method settings.
        prompt, negative_prompt: as the model read them.
        seed: of the initial noise.
    """

    sample_id: str | None
    method: str
    model_revision: str
    prompt: str
    negative_prompt: str
    seed: int

    def xmp(self) -> str:
        """Attributes of an rdf:Description: IPTC Photo Metadata 2025.1, Dublin Core, XMP basic."""
        told = f"{self.prompt}\nseed: {self.seed}"
        if self.negative_prompt:
            told += f"\nnegative: {self.negative_prompt}"
        values = {
            "Iptc4xmpExt:AISystemUsed": f"infinite-id-ray, {self.method}",
            "Iptc4xmpExt:AISystemVersionUsed": self.model_revision,
            "Iptc4xmpExt:AIPromptInformation": told,
            "xmp:CreatorTool": "infinite-id-ray",
        }
        if self.sample_id is not None:
            values["dc:identifier"] = self.sample_id
        newline = {"\n": "&#10;"}
        return "".join(
            f" {name}={quoteattr(_NO_XML.sub('', value), newline)}"
            for name, value in values.items()
        )


def xmp_packet(provenance: Provenance | None = None) -> str:
    """XMP that marks a picture as AI-generated (IPTC digital source type), with how it was made."""
    return _XMP % (provenance.xmp() if provenance else "")
