"""What noiser costs, measured. Each module is a command: python -m benchmarks.speed."""
