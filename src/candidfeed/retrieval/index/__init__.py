"""The vectors nearest to a user's: exact below a size, inverted lists above."""
