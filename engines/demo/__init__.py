"""The bundled demo model: a tiny captioner of plain shapes, and all it takes to train it again."""
