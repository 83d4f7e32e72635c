"""Plain names for parts of torch that are private, awkward or slow."""
