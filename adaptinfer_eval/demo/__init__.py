"""A page to play with: one picture, one question, and what every method makes of them."""
