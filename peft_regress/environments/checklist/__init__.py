"""Compare two releases of peft by the protocol that its maintainers ask of a change to a method.

`situations` lists what is compared and `networks` builds it; a `worker` in each environment carries
it out (`examining`); `running` lets the two workers take turns; `rows` judges; `checklist` is what
the command calls and `checklist_report` shows it.
"""
