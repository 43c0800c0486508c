"""What does the work of a task: the contract, the registry, and the handlers that are built in."""
