"""The simulator of cores: messages as values, model disks, monitors that see all."""
