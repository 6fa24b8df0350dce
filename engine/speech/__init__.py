"""Speech: sound is cut into windows that Whisper hears, and what it wrote down is put together again."""
