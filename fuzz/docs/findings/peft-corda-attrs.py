"""CorDA needs the package attrs, which peft does not require.

Seen with peft 0.21.2, transformers 5.24.0, torch 2.13.0, Python 3.11, on CPU.

`preprocess_corda` cannot be imported where attrs is not installed. Neither peft requires it, nor do the
packages that it requires, directly or not.

Expected: `True` twice.

Cause: `tuners/lora/corda.py` takes a decorator from it that the standard library has:

```diff
-from attr import dataclass
+from dataclasses import dataclass
```

With this change the first line is `True`.
"""
# peft==0.21.2

import sys
from importlib.metadata import requires

from packaging.requirements import Requirement

sys.modules["attr"] = None  # as if it were not installed
try:
    from peft.tuners.lora.corda import preprocess_corda
except ModuleNotFoundError:
    preprocess_corda = None
print("without attrs CorDA can be imported:", preprocess_corda is not None)

needed, new = set(), {"peft"}
while new:
    needed |= new
    found = [Requirement(line) for name in new for line in requires(name) or ()]
    new = {one.name for one in found if not one.marker or one.marker.evaluate({"extra": ""})}
    new -= needed
print("attrs is required:", "attrs" in needed)

# It prints:
# without attrs CorDA can be imported: False
# attrs is required: False
