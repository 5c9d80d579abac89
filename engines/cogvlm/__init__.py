"""CogVLM and CogVLM2 for vLLM: a plugin of vLLM's, and what makes a published checkpoint one that it can read."""
