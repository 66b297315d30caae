"""Tools for tests, ours and applications': a simulator of cores with its monitors."""
