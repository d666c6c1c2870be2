"""What a network knows: exact metrics, scores over views, true averages, layer responses."""
