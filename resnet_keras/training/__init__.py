"""How a network learns: strategy, schedule, optimizer, loop, checkpoints and log."""
