"""What operators and their tools ask of a running node, over HTTP; it can change nothing."""
