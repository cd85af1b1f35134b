"""What Tollway costs: CPU per request, added latency, start time, memory. Needs Linux."""
