"""Run a model on stand-in tensors and leave no trace."""
