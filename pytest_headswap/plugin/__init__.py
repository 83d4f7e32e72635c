"""The pytest plugin. Nothing here imports torch until a zoo is requested."""
