"""Floor 2: when and where. The deployments, the embedded service and the `nexus` command."""
