"""What a case costs in ExecuTorch's runtime, and whether it computes there what it does here."""
