"""JSON schemas of clients: bounded, refused early, and answers held to them.

ensure_bounds      for every model: small, well formed, local, without circles, with patterns that are cheap to match
ensure_supported   for a model whose engine writes by the schema: nothing in it that the engine would drop or refuse
checked            a schema's compiled checker of answers
"""

from gateway.schema.bounds import ensure_bounds
from gateway.schema.checker import Checker, checked
from gateway.schema.support import ensure_supported

__all__ = ["Checker", "checked", "ensure_bounds", "ensure_supported"]
