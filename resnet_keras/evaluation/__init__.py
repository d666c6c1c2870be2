"""What a network knows: exact metrics."""
