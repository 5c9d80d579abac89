"""Any model that vLLM serves, as an engine of Altgate."""
