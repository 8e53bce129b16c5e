"""`python -m peft_regress` is the command `peft-regress`."""

from peft_regress.cli.main import main

main()
