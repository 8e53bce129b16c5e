"""What a case puts on its model: a built-in method, a configuration of peft, or a callable."""

from peft_regress.measure.adapters.find import adapter_of
from peft_regress.measure.adapters.protocol import Adapter

__all__ = ["Adapter", "adapter_of"]
