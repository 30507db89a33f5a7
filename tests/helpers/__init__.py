"""What several tests share: factories of values, and the machine that plays payer and chain."""
