"""The command `train`: one recommender, trained and evaluated on held-out items."""
