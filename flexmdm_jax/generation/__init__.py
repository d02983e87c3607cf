"""Many samples from one model: what sampling does for a batch, done for as many rows as asked."""
