"""What a case costs in ExecuTorch's runtime, and whether it computes there what it computes here.

`program` exports and plans, `runtime` runs, `costs` does both for a case and compares with PyTorch.
"""
