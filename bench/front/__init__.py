"""The front door under load and under attack: `python -m bench.front.overload`, `python -m bench.front.idle`."""
