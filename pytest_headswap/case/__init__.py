"""One model, built cheaply and swapped, with what checks ask about it."""
