"""How an edited model leaves: as a checkpoint, a delta, an adapter, or for llama.cpp and Ollama."""

FORMATS = ("checkpoint", "delta", "lora", "gguf", "gguf-lora", "ollama")
