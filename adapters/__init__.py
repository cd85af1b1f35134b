"""What speaks to a provider: one file each, behind the contract in `adapters.base`."""
