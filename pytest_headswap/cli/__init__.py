"""The command line: `headswap explain`, `list-zoos`, `list-models`, `expectations`, `report`, `merge` and `compare`."""
