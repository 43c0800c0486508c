"""What the nexus costs, and how that grows: measured side by side in one run, told as ratios. Never a timed test."""
