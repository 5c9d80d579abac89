"""The BLIP engine: captions by `BlipForConditionalGeneration`, one step for many pictures at a time."""
