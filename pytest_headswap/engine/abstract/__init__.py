"""Run a model on stand-in tensors, without side effects."""
