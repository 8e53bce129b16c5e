"""State that a test changes and that must be as before afterwards."""

import contextlib
import sys

from peft_regress import registry
from peft_regress.project import project


@contextlib.contextmanager
def registry_restored():
    """Give back the registry as it was, whatever a test or an inner pytest run does to it."""
    added, loaded = registry._added, set(registry._loaded)
    registry._added = {kind: dict(found) for kind, found in added.items()}
    own, project._CURRENT = project._CURRENT, project.Project()
    path = list(sys.path)
    try:
        yield
    finally:
        registry._added, registry._loaded = added, loaded
        project._CURRENT = own
        sys.path[:] = path
