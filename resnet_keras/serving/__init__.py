"""What leaves the house: SavedModels for TF Serving, and answers from them."""
