"""A verdict on a run as text, Markdown, JSON values or annotations."""
