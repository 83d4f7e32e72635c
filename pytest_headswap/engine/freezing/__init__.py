"""Keep the backbone bit-identical, and prove it."""
