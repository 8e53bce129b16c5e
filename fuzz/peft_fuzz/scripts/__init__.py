"""Write scripts that show findings without this project."""
