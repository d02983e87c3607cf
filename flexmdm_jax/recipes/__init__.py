"""What to train on a text, and for how long, where nobody has said so."""
