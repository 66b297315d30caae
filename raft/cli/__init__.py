"""The `raft` command: one module for each subcommand, imported only when it is used."""
