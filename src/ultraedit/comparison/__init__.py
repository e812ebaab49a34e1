"""Methods side by side: the same base, edits and turns, each in a process of its own."""
