"""What each method promises, and its formula."""
