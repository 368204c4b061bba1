"""Which samples come when, and how they get there: batches in an order that a killed run takes up again exactly."""
