"""What all steps of a recipe share: their contract, their context, and resumable work."""
