"""The parts of `TaskNexus`, by who uses them."""
