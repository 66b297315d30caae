"""Stable storage of one server: the log with its hard state, snapshots, the data directory."""
