"""What a model is for: data, loss and score."""
