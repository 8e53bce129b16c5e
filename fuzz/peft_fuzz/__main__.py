"""Run `peft-fuzz` as `python -m peft_fuzz`."""

from peft_fuzz.cli import main

main()
