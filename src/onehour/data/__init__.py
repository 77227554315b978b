"""From files to batches: text, tokens, Arrow rows, and the order in which they come."""
