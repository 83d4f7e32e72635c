"""Expected failures of models: read them from files, match them with observations, and update the files."""
