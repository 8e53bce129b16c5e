"""Scripts that show a finding to a library's maintainers without this project."""
