"""Everything that can happen to a small cluster of real cores, visited without chance."""
