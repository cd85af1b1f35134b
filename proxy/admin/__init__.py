"""The admin API: `/admin/v1`, and LiteLLM's names for the same things."""
