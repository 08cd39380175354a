"""Attacks on phiv's commands: faults, damage, low memory, hostile names and archives. `scripts/attack` runs them."""
