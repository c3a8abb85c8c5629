"""Where slates and feedback come from."""
