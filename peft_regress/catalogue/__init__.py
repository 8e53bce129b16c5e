"""The built-in cases: tasks, methods, architectures, and the matrices made of them."""
