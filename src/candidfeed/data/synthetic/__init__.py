"""A made-up world, its log and what the best recommender of it could reach."""
