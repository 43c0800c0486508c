"""The verbs of the `nexus` command that need only the nexus; `deployments.cli` adds the ones that need Prefect."""
