"""How pictures come in: had from a URL or from base64, known by their digest, made plain before an engine sees them.

Nothing but this package connects to an address that a client names, or opens a picture that a client sent. `ingest` is
its front door.
"""
