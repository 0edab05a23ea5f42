"""One module a runtime: what an inference engine makes of a checkpoint."""
