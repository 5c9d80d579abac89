"""The presets: one prompt a file, with the JSON schema that it promises. Read by `gateway.prompts`."""
