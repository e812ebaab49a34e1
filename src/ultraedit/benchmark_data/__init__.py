"""Data for benchmarks of editors: questions about the facts of a knowledge base."""
