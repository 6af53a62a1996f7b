"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is not a fault; the same examples each time make a failure repeatable.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")
