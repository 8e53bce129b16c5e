"""What a training step keeps for its backward pass although no gradient that it takes needs it.

`lean` puts operators that keep less into a model. Importing this package imports no torch.
"""

from peft_regress.memory.lean import Keeps, Lean, Reason, lean

__all__ = ["Keeps", "Lean", "Reason", "lean"]
