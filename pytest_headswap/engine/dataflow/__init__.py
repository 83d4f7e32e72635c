"""Record the operations of a forward pass, and follow one dimension through them."""
