"""One typed section of the configuration per module, so that a stage's code digest sees only its own."""
