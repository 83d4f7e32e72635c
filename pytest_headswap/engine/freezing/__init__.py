"""Keep the backbone of a model bit-identical, and verify it."""
