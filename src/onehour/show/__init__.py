"""What people see: terminal lines, curves, tables, predictions."""
