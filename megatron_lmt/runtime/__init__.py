"""What a run needs around the model: device, process groups, optimizer, checkpoints, metrics, signals."""
