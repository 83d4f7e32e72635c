"""Run checks in child processes, within limits of time and memory."""
