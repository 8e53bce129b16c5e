"""State that a test changes and that must be as before afterwards."""

import contextlib
import sys

from peft_regress import registry
from peft_regress.project import own_cases


@contextlib.contextmanager
def registry_restored():
    """Give back the registry as it was, whatever a test or an inner pytest run does to it."""
    added, loaded = registry._added, set(registry._loaded)
    registry._added = {kind: dict(found) for kind, found in added.items()}
    own, own_cases._registry = own_cases._registry, own_cases._Registry()
    path = list(sys.path)
    try:
        yield
    finally:
        registry._added, registry._loaded = added, loaded
        own_cases._registry = own
        sys.path[:] = path
