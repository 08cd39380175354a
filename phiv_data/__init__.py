"""phiv's data side."""
