"""Work in another interpreter: what every command that measures elsewhere uses. No torch."""
