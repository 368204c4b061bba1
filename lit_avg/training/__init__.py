"""What training a stage takes besides its loss: optimiser, frozen parts, what goes from one stage to the next."""
