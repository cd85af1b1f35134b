"""The only owner of holds, balances and attempt rows. The only SQL in the product lives here."""
