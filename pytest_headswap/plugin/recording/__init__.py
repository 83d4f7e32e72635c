"""The journal's writer, resuming, and summaries at the end of a run."""
