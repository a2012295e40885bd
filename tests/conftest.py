"""For all tests: Hypothesis has no deadline, since how long an example takes says nothing here."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unhurried", settings.default, deadline=None)
settings.load_profile("unhurried")
