"""The payment schemes, one file each, both sides of it.

A scheme knows how an offer is spelled, how a payment for it is checked, and how one is made. What
it learns from a payment is a value that the gate hands on; it decides nothing about money.
"""
