"""LoRA adapters: checked, copied to where nobody changes them, brought into the engine, and out of it again."""
