"""`SimCluster`: an application's machine in whole nodes on simulated time."""
