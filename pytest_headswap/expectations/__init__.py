"""What a file says is expected of models: read, held against what was found, and brought up to date."""
