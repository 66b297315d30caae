"""Ready state machines: `kv` (the default), `echo` and `stack`."""
