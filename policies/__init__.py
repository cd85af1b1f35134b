"""What decides: one policy a file, behind the contract in `policies.base`."""
