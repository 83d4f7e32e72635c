"""One model, built cheaply, with its head swapped, and the facts that checks need about it."""
