"""What notebooks and reports show; every function returns a matplotlib Figure."""
