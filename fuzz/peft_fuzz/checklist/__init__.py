"""Compare two releases of peft by the protocol that its maintainers ask of a change to a method.

`situations` lists what is compared; `running` lets a worker in each environment carry it out
(`examining`, on the `networks`). `judge` turns what they give into rows. `checklist` is what the
command calls, `checklist_report` shows the result.
"""
