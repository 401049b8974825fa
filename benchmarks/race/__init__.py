"""What `benchmarks/peers.py` is made of: worker processes, engines, rounds, figures."""
