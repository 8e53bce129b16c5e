"""What is done with adapted models from outside."""
