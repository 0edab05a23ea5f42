"""What a longer context asks of a checkpoint, from its metadata alone: geometry, cost, verdict."""
