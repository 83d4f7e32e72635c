"""The command line: `headswap explain`, `zoos`, `report`, `merge` and `compare`."""
