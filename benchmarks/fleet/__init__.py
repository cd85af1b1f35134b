"""A day of a fleet that does not exist, by the router that does: cost, latency, reliability.

The router, its policies, the figures they go by, prices and money are the real ones; time, traffic,
providers and their failures are made up. What is assumed stands in `assumptions` and `traffic`.
"""
