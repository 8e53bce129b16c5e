"""What a case costs in ExecuTorch's runtime, and whether it computes there what it computes here.

`program` exports and plans, `runtime` runs a program, `costs` does both for a case and compares it
with PyTorch.
"""
