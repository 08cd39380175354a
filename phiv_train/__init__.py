"""phiv's training side: model families, plans, the trainer, evaluation."""
