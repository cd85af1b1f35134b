"""What `policies.difficulty` is trained from and judged by: `python -m benchmarks.routing`."""
