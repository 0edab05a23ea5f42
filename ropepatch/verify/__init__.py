"""Evidence that an output is what its patch says."""
