"""The front door: `python -m bench.front.overload`, `python -m bench.front.idle`, `python -m bench.front.protocols`."""
