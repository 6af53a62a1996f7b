"""The scoring suite on synthetic faces, with the networks of the pocket preset."""

from __future__ import annotations
