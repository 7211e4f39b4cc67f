"""Who chooses the sparsity: reinforcement-learning agents and the baselines they must beat."""
