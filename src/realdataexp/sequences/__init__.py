"""Next-item recommenders: users' histories, held-out questions, ranking, and what is counted."""
