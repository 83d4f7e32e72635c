"""Record the operations of a forward pass, and trace dimensions through them."""
