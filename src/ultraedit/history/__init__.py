"""What happened to an edited model, and how to take it back."""
