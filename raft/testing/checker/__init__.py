"""What `raft.testing.linearizability` decides with: models, and the search for an order."""
