"""How an edited model leaves: as a plain checkpoint, a small delta, or a LoRA adapter."""

FORMATS = ("checkpoint", "delta", "lora")
