"""Run checks in a process of its own, within time and memory."""
