"""The command line: `headswap explain`, `list-zoos`, `report`, `merge` and `compare`."""
