"""Requests of which several attempts are made: races, hedges, cascades and consensuses."""
