"""What a trained model is worth: how likely held-out data is to it, and how good what it writes."""
