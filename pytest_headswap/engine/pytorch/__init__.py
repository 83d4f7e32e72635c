"""What is private, awkward or slow in torch, behind plain names."""
