"""The campaign `make faults`: every verb that writes is disturbed, and then run again."""
