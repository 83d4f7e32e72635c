"""Write the journal, resume interrupted runs, and print summaries at the end of a run."""
