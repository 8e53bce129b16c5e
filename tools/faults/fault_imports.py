"""Import everything that a measurement needs, once: processes are forked from this one."""

from importlib import import_module

for _name in ("peft", "peft.optimizers", "galore_torch"):
    import_module(_name)
for _name in ("fault_catalogue", "peft_regress.measure.case", "torchvision"):
    import_module(_name)
