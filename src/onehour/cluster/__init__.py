"""Ray: the only wing that imports it, and address.py does not."""
