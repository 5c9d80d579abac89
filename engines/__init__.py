"""Captioning engines: each turns pictures into sentences."""
