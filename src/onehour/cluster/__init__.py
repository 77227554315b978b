"""Ray: the only wing that imports it."""
