"""From records to batches of rows, in an order that the seed alone decides."""
