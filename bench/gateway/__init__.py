"""How fast the way through the gateway is: `python -m bench.gateway`."""
