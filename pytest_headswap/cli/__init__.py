"""The command line: `headswap explain`, `list-zoos`, `list-models`, `report`, `merge` and `compare`."""
