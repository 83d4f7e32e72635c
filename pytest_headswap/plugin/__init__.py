"""The parts of the pytest plugin. Nothing here imports torch before a zoo is asked for."""
