"""Rehearse a deployment: its commands run here, with recorders in place of the device's tools."""
