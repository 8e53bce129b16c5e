"""Compare two releases of peft by the protocol that its maintainers ask of a change to a method.

`situations` lists what is compared and `networks` builds it; a `worker` in each environment carries
it out (`examining`), and `running` lets the two take turns. `judge` turns what they give into
`rows`. `checklist` is what the command calls, `checklist_report` shows the result.
"""
