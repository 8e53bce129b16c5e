"""The page of `peft-regress report --html`: one file that needs nothing else."""
